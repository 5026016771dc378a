import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="ansible-playbook is not installed"),
    pytest.mark.pidoc(nodes=3),
]


@pytest.fixture
def inventory(pi_cluster, tmp_path):
    path = tmp_path / "inventory.yml"
    path.write_text(pi_cluster.inventory())
    return path


def test_the_playbook_runs_on_all_nodes(inventory):
    subprocess.run(["ansible-playbook", "-i", inventory, HERE / "ping.yml"], check=True)


def test_the_agents_reach_the_server(inventory):
    groups = HERE / "groups.yml"
    subprocess.run(["ansible-playbook", "-i", inventory, "-i", groups, HERE / "agents.yml"], check=True)

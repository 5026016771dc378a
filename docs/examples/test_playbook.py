import shutil
import subprocess
from pathlib import Path

import pytest

PLAYBOOK = Path(__file__).with_name("ping.yml")


@pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="ansible-playbook is not installed")
@pytest.mark.pidoc(nodes=2)
def test_the_playbook_runs_on_all_nodes(pi_cluster, tmp_path):
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(pi_cluster.inventory())
    subprocess.run(["ansible-playbook", "-i", inventory, PLAYBOOK], check=True)

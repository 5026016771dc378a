import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("report.py")

pytestmark = pytest.mark.pidoc(nodes=3)


@pytest.fixture
def reports(pi_cluster):
    """Return what the program prints on each node."""
    for pi in pi_cluster:
        pi.put(PROGRAM, "report.py")
    results = pi_cluster.run("python3 report.py")
    return [json.loads(result.stdout) for result in results.values()]


def test_every_node_reports_under_its_own_name(reports):
    assert sorted(report["host"] for report in reports) == ["pi-1", "pi-2", "pi-3"]


def test_every_node_has_been_up_for_a_while(reports):
    assert all(report["uptime"] > 0 for report in reports)

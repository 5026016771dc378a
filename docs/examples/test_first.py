import pytest


@pytest.mark.pidoc(nodes=3)
def test_three_machines(pi_cluster):
    for pi in pi_cluster:
        assert pi.run("uname -m").stdout.strip() == "aarch64"

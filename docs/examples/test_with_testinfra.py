import pytest

testinfra = pytest.importorskip("testinfra")


@pytest.fixture
def host(pi_cluster, tmp_path):
    """Return testinfra's host for the first node, in place of the one that --hosts names."""
    config = tmp_path / "ssh_config"
    config.write_text(pi_cluster.ssh_config())
    return testinfra.get_host(f"ssh://{pi_cluster[0].name}", ssh_config=str(config))


def test_ssh_runs(host):
    assert host.package("openssh-server").is_installed
    assert host.service("ssh").is_running
    assert host.service("ssh").is_enabled
    assert host.socket("tcp://0.0.0.0:22").is_listening


def test_user_can_become_root(host):
    assert "sudo" in host.user("pi").groups
    with host.sudo():
        assert host.file("/etc/shadow").contains("^pi:")


@pytest.mark.pidoc(nodes=2)
def test_nodes_reach_each_other(host):
    assert host.addr("pi-2").is_reachable

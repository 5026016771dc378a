import pytest

pytestmark = pytest.mark.pidoc(nodes=3)


def reaches(pi, name):
    return pi.run(f"ping -q -c 2 -i 0.2 -W 1 {name}", warn=True).ok


def test_a_network_that_falls_apart(pi_cluster):
    first, second, third = pi_cluster
    with pi_cluster.partition([first], [second, third]):
        assert not reaches(first, "pi-2")
        assert reaches(second, "pi-3")
    assert reaches(first, "pi-2")


def test_a_slow_and_lossy_network(pi_cluster):
    first, second, _ = pi_cluster
    with pi_cluster.degrade(delay=0.2, loss=0.1, between=(first, second)):
        assert first.wait_until_succeeds("ping -c 1 -W 2 pi-2").ok


def test_a_cable_that_is_out(pi_cluster):
    first, second, _ = pi_cluster
    with second.network.down():
        assert second.run("cat /sys/class/net/eth1/carrier").stdout == "0\n"
        assert not reaches(first, "pi-2")

import pytest


@pytest.mark.pidoc(fresh=True)
def test_a_new_node_for_this_test_alone(pi):
    pi.sudo("touch /etc/changed")  # no other test sees this


def test_nodes_that_are_started_in_the_test(boot_pi):
    pair = boot_pi(nodes=2, memory="256M")
    single = boot_pi()
    assert [pi.name for pi in pair] == ["pi-1", "pi-2"]
    assert single.name != pair.name
    assert int(pair[0].run("awk '/MemTotal/ { print $2 }' /proc/meminfo").stdout) < 256 * 1024  # KiB


@pytest.mark.pidoc(2)
def test_a_third_node_beside_the_two_of_the_marker(pi_cluster, boot_pi):
    late = boot_pi()[0]
    assert late.run("hostname").stdout == pi_cluster[0].run("hostname").stdout  # both are the first of their cluster
    assert late.port != pi_cluster[0].port

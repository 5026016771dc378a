import pytest
from invoke.exceptions import CommandTimedOut

from pytest_pidoc import NodeDied

pytestmark = pytest.mark.pidoc(nodes=1)


def test_what_was_synced_outlives_a_power_cut(pi):
    pi.run("echo 42 > measured; sync measured")
    with pi.power_cut(), pytest.raises(NodeDied, match="pi-1 is off since power_cut"):
        pi.run("true")
    assert pi.run("cat measured").stdout == "42\n"  # the node was started again at the end of the block


def test_only_what_is_on_the_disk_outlives_a_reboot(pi):
    pi.run("touch on-the-disk; sudo touch /run/in-memory")
    pi.reboot()
    assert pi.run("ls on-the-disk /run/in-memory", warn=True).stdout == "on-the-disk\n"


def test_client_gives_up_on_a_machine_that_hangs(pi):
    with pi.pause(), pytest.raises(CommandTimedOut):
        pi.run("true", timeout=2)
    assert pi.run("true").ok


def test_node_that_is_left_without_power_is_on_for_the_next_test(pi):
    pi.power_cut()

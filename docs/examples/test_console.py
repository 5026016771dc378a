import pexpect
import pytest

pytestmark = pytest.mark.pidoc


@pytest.fixture
def console(pi):
    """Give the serial console at a shell prompt, which is ready some time after SSH."""
    with pi.console as console:
        for _ in range(60):
            console.sendline("")
            if console.expect([r"\$ ", pexpect.TIMEOUT], timeout=2) == 0:
                break
        yield console


def test_the_serial_console_has_a_shell(console):
    console.sendline("echo sum=$((40 + 2))")
    console.expect("sum=42")


def test_the_monitor_knows_the_machine(pi):
    assert pi.monitor.execute("query-status")["running"]


def test_the_serial_log_has_all_that_was_printed(pi):
    pi.sudo("sh -c 'echo here I am > /dev/console'")
    assert "here I am" in pi.serial_log.tail()

import pytest

pytestmark = pytest.mark.pidoc


def test_the_serial_console_has_a_shell(pi):
    with pi.console as console:
        console.sendline("echo sum=$((40 + 2))")
        console.expect("sum=42", timeout=60)


def test_the_monitor_knows_the_machine(pi):
    assert pi.monitor.execute("query-status")["running"]


def test_the_serial_log_has_all_that_was_printed(pi):
    pi.sudo("sh -c 'echo here I am > /dev/console'")
    assert "here I am" in pi.serial_log.tail()

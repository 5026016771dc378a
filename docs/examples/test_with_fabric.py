import io

import pytest
from invoke import UnexpectedExit

pytestmark = pytest.mark.pidoc


def test_a_command_that_fails_raises(pi):
    with pytest.raises(UnexpectedExit) as caught:
        pi.run("ls /nowhere")
    assert caught.value.result.exited == 2
    assert "No such file" in caught.value.result.stderr


def test_root_needs_no_password(pi):
    assert pi.sudo("id -un").stdout.strip() == "root"


def test_a_file_object_will_do(pi):
    pi.put(io.BytesIO(b"port = 80\n"), "app.conf")
    assert pi.run("cat app.conf").stdout == "port = 80\n"


def test_the_connection_is_fabrics(pi_connection):
    with pi_connection.cd("/etc"):
        assert pi_connection.run("pwd").stdout.strip() == "/etc"

import pytest

pytestmark = pytest.mark.pidoc


@pytest.fixture
def web(pi):
    """Serve the home directory on port 8080."""
    pi.run("echo hello > index.html")
    pi.sudo("systemd-run --unit=web --working-directory=/home/pi python3 -m http.server 8080")
    yield pi
    pi.sudo("systemctl stop web")


def test_a_server_that_takes_its_time(web):
    web.wait_for_unit("web")
    web.wait_for_port(8080)


def test_a_file_that_comes_later(pi):
    pi.start("sleep 1; echo done > result.txt")
    assert pi.wait_until_succeeds("grep done result.txt", timeout=30).stdout == "done\n"

from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.pidoc


@pytest.fixture
def web(pi):
    """Serve the home directory on port 8080."""
    pi.run("echo hello > index.html")
    pi.sudo("systemd-run --unit=web --working-directory=/home/pi python3 -m http.server 8080")
    pi.wait_for_port(8080)
    yield pi
    pi.sudo("systemctl stop web")


def test_the_page_from_outside(web):
    with web.forward(8080) as page, urlopen(f"http://{page.host}:{page.port}/") as answer:
        assert answer.read() == b"hello\n"

from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.pidoc


@pytest.fixture
def web(pi):
    """Serve the home directory on port 8080."""
    pi.run("echo hello > index.html")
    with pi.start("python3 -u -m http.server 8080") as server:
        pi.wait_for_port(8080)
        yield pi
    assert '"GET / HTTP/1.1" 200' in server.stderr


def test_the_page_from_outside(web):
    with web.forward(8080) as page, urlopen(f"http://{page.host}:{page.port}/") as answer:
        assert answer.read() == b"hello\n"

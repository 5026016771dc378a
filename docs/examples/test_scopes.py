import pytest

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"


@pytest.fixture(scope="module")
def site(pidoc_boot):
    """Serve a site on the first of two nodes: set up once, for all tests of this module."""
    with pidoc_boot(nodes=2) as cluster:
        server = cluster[0]
        server.run("mkdir site && echo 1.0 > site/version")
        with server.start("python3 -u -m http.server --directory site 8080"):
            server.wait_for_port(8080)
            yield cluster


def fetch(pi, page):
    return pi.run(f'python3 -c "{FETCH}" http://pi-1:8080/{page}').stdout


def test_the_other_node_reads_the_version(site):
    assert fetch(site[1], "version") == "1.0\n"


def test_a_new_page_is_served(site):
    site[0].run("echo hello > site/page")
    assert fetch(site[1], "page") == "hello\n"


@pytest.fixture(scope="session")
def configured(pidoc_cluster):
    """Configure the node of the session once, whichever test needs it first."""
    pi = pidoc_cluster[0]
    pi.run("echo 'port = 80' > app.conf")
    return pi


def test_configuration(configured):
    assert configured.run("cat app.conf").stdout == "port = 80\n"


def test_the_same_node(configured, pidoc_cluster):
    assert configured is pidoc_cluster[0]

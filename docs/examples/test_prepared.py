import pytest


def web(cluster):
    """Let pi-1 serve a page. This runs once; then both nodes are saved as they are."""
    server = cluster["pi-1"]
    server.sudo("mkdir /srv/web")
    server.write("/srv/web/index.html", "hello\n", sudo=True)
    server.sudo("systemd-run --quiet --unit=web python3 -m http.server --directory /srv/web 80")
    cluster["pi-2"].wait_for_port(80, host="pi-1")


pytestmark = pytest.mark.pidoc(nodes=2, prepare=web)

FETCH = "python3 -c 'import urllib.request as web; print(web.urlopen(\"http://pi-1\", timeout=3).read().decode())'"


def test_page(pi_cluster):
    assert "hello" in pi_cluster["pi-2"].run(FETCH).stdout


def test_no_page(pi_cluster):
    pi_cluster["pi-1"].sudo("rm -r /srv/web")  # in this test's nodes only
    assert pi_cluster["pi-2"].run(FETCH, warn=True).failed


def test_server_without_power(pi_cluster):
    pi_cluster["pi-1"].power_cut()
    assert pi_cluster["pi-2"].run(FETCH, warn=True).failed


def test_start_over(pi_cluster):
    pi_cluster["pi-1"].sudo("systemctl stop web")
    pi_cluster.reset()
    assert "hello" in pi_cluster["pi-2"].run(FETCH).stdout

import pytest

pytestmark = pytest.mark.pidoc


def test_a_certificate_that_runs_out(pi):
    year = int(pi.run("date +%Y").stdout)
    with pi.clock.jump(400 * 24 * 3600):
        assert int(pi.run("date +%Y").stdout) > year
    assert int(pi.run("date +%Y").stdout) == year


def test_no_space_left(pi):
    with pi.disk.fill():
        result = pi.run("echo something > file", warn=True)
    assert "No space left on device" in result.stderr


@pytest.mark.pidoc(engine="docker")
def test_on_a_busy_pi(pi):
    with pi.cpu.limit(0.25):
        assert pi.run("sha256sum /bin/bash", timeout=60).ok

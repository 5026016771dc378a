"""What a user sees where no Pi can be had, and where none is asked for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import docker  # noqa: F401 # so that the runs in this process do not import it again and again
import pytest
from support import unix_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hanging_docker(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let DOCKER_HOST name a daemon that accepts and never answers."""
    done = threading.Event()

    def hang(connection: socket.socket) -> None:
        done.wait(60)

    with contextlib.ExitStack() as closing:
        path = closing.enter_context(unix_server(short_path / "docker.sock", hang))
        closing.callback(done.set)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield


@pytest.mark.usefixtures("no_engine")
def test_no_engine_skips(one_pi: pytest.Pytester) -> None:
    """Where neither Docker nor QEMU is, a test that needs a Pi is skipped, and the reason has both remedies."""
    result = one_pi.runpytest("-rs")

    result.assert_outcomes(skipped=1)
    text = result.stdout.str()
    assert "No engine can run nodes" in text
    assert "qemu-system-arm" in text
    assert "docker.io" in text


@pytest.mark.usefixtures("no_engine")
def test_no_engine_fails_where_one_is_required(one_pi: pytest.Pytester) -> None:
    """With ``--pidoc-require`` the same is an error: a CI job must not pass by skipping."""
    result = one_pi.runpytest("--pidoc-require")

    result.assert_outcomes(errors=1)
    assert "No engine can run nodes" in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
def test_every_fixture_skips(pytester: pytest.Pytester) -> None:
    """Whichever fixture asks first, the test is skipped."""
    names = ("pi", "pi_cluster", "pi_connection", "pidoc_cluster", "pidoc_image")
    pytester.makepyfile("\n".join(f"def test_{name}({name}): pass" for name in names))

    pytester.runpytest().assert_outcomes(skipped=len(names))


@pytest.mark.usefixtures("no_engine")
def test_factory_skips_when_it_is_called(pytester: pytest.Pytester) -> None:
    """The factory's test runs until it asks for nodes."""
    pytester.makepyfile(
        """
        def test_unused(boot_pi):
            pass

        def test_used(boot_pi):
            boot_pi(nodes=2)
        """
    )

    pytester.runpytest().assert_outcomes(passed=1, skipped=1)


@pytest.mark.usefixtures("no_engine")
def test_fixture_of_a_module_skips_its_tests(pytester: pytest.Pytester) -> None:
    """What cannot be set up is not tried again for each test, and each is skipped with the reason."""
    pytester.makepyfile(
        """
        import pytest

        calls = []

        @pytest.fixture(scope="module")
        def pair(pidoc_boot):
            calls.append(1)
            with pidoc_boot(2) as cluster:
                yield cluster

        def test_one(pair): pass

        def test_other(pair): pass

        def test_calls(): assert calls == [1]
        """
    )
    result = pytester.runpytest("-rs")

    result.assert_outcomes(passed=1, skipped=2)
    assert "No engine can run nodes" in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("factory", ["boot_pi", "pidoc_boot"])
@pytest.mark.parametrize("arguments", ["nodes=0", "speed=3", "model='pi9'"])
def test_factorys_bad_argument_fails_the_test(pytester: pytest.Pytester, factory: str, arguments: str) -> None:
    """A bad argument is the test's mistake, not a reason to skip."""
    pytester.makepyfile(f"def test_it({factory}): {factory}({arguments})")
    result = pytester.runpytest()

    result.assert_outcomes(failed=1)
    assert "SettingsError" in result.stdout.str()
    assert f" {factory}" in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("factory", ["boot_pi", "pidoc_boot"])
def test_factorys_tip_is_what_the_factory_takes(pytester: pytest.Pytester, factory: str) -> None:
    """Its nodes are always the test's own: the tip does not offer the argument that was just refused."""
    pytester.makepyfile(f"def test_it({factory}): {factory}(2, fresh=True)")
    result = pytester.runpytest()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{factory} has no argument 'fresh'.", f"*{factory}(nodes=?*, [*], model=None, *"])
    assert "fresh=False" not in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("engine", ["local", "docker"])
def test_engine_that_was_asked_for_skips(one_pi: pytest.Pytester, engine: str) -> None:
    """An engine that is not here skips too, with the reason."""
    result = one_pi.runpytest(f"--pidoc-engine={engine}", "-rs")

    result.assert_outcomes(skipped=1)
    assert {"local": "requires QEMU", "docker": "No Docker daemon listens"}[engine] in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
def test_tests_without_a_pi_run_beside_skipped_ones(one_pi: pytest.Pytester) -> None:
    """Nothing else is affected."""
    one_pi.makepyfile(test_other="def test_other(): pass")

    one_pi.runpytest().assert_outcomes(passed=1, skipped=1)


@pytest.mark.usefixtures("hanging_docker")
def test_hanging_daemon_ends_in_bounded_time(one_pi: pytest.Pytester) -> None:
    """A Docker daemon that accepts and never answers costs some seconds, and the reason says that it hangs."""
    start = time.monotonic()
    result = one_pi.runpytest("--pidoc-engine=docker", "-rs")

    result.assert_outcomes(skipped=1)
    assert "did not answer within 2 s" in result.stdout.str()
    assert time.monotonic() - start < 30


@pytest.mark.usefixtures("hanging_docker")
def test_hanging_daemon_fails_where_docker_is_required(one_pi: pytest.Pytester) -> None:
    """With ``--pidoc-require`` the same fails, in bounded time."""
    result = one_pi.runpytest("--pidoc-engine=docker", "--pidoc-require")

    result.assert_outcomes(errors=1)
    assert "did not answer within 2 s" in result.stdout.str()


@pytest.mark.qemu
def test_cache_that_cannot_be_written(one_pi: pytest.Pytester, no_docker: str) -> None:
    """A cache directory that takes nothing is an error of the test that says which option names another."""
    result = one_pi.runpytest("--pidoc-engine=local", "--pidoc-cache-dir=/proc/pidoc")

    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert "Cannot use the cache directory /proc/pidoc" in text
    assert "--pidoc-cache-dir" in text


@pytest.mark.qemu
def test_unknown_recipe_is_an_error(one_pi: pytest.Pytester, no_docker: str) -> None:
    """An image that nobody can build is an error that says what can be."""
    result = one_pi.runpytest("--pidoc-engine=local", "--pidoc-image=plan9")

    result.assert_outcomes(errors=1)
    assert "plan9" in result.stdout.str()
    assert "debian" in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
def test_failed_run_leaves_nothing(one_pi: pytest.Pytester, clusters: Path) -> None:
    """Where nothing could be started, no directory of a cluster is left."""
    one_pi.runpytest("--pidoc-require")

    assert list(clusters.iterdir()) == []


def test_run_without_a_pi_is_unaffected(pytester: pytest.Pytester, clusters: Path, no_settings: Path) -> None:
    """A suite without a Pi makes no directory and needs no engine."""
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=1)
    assert list(clusters.iterdir()) == []
    assert not no_settings.exists()


def test_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    """With ``-p no:pidoc`` there is no option, no fixture, no marker."""
    pytester.makepyfile("def test_nothing(): pass\ndef test_pi(pi): pass")
    result = pytester.runpytest("-p", "no:pidoc")

    result.assert_outcomes(passed=1, errors=1)
    assert "fixture 'pi' not found" in result.stdout.str()


def test_user_can_override_a_fixture(pytester: pytest.Pytester) -> None:
    """A fixture of the user's conftest takes the place of the plugin's, for all that build on it."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def pi_cluster():
            return ["mine", "other"]
        """
    )
    pytester.makepyfile("def test_pi(pi): assert pi == 'mine'")

    pytester.runpytest().assert_outcomes(passed=1)


def test_with_workers(pytester: pytest.Pytester, no_engine: None) -> None:
    """Under pytest-xdist, tests that need a Pi are skipped with the same reason."""
    pytest.importorskip("xdist")
    pytester.makepyfile("def test_pi(pi): pass\ndef test_other(): pass")
    result = pytester.runpytest_subprocess("-n1", "-rs", timeout=120)

    result.assert_outcomes(passed=1, skipped=1)
    assert "No engine can run nodes" in result.stdout.str()


@pytest.mark.usefixtures("no_engine")
def test_variable_requires_as_the_option_does(one_pi: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CI job can require an engine with a variable."""
    monkeypatch.setitem(os.environ, "PIDOC_REQUIRE", "yes")

    one_pi.runpytest().assert_outcomes(errors=1)

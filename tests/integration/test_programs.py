"""Programs that go on running in a real guest, folders that are copied to it and back, and files that are written."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import urllib.request
from typing import TYPE_CHECKING

import pytest
from invoke.exceptions import CommandTimedOut

from pytest_pidoc.cluster import Cluster
from pytest_pidoc.errors import CopyError, NodeDied, WaitError, WaitTimeout

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_pidoc.node import Node


def processes(pi: Node, name: str) -> list[str]:
    """Return the ids of the processes with that command line."""
    return list(pi.run(f"pgrep -fx '{name}'", warn=True).stdout.split())


def test_server_that_runs_until_the_end_of_the_block(any_node: Node) -> None:
    """The test talks to it, reads its log, and it is gone afterwards; its status is that of SIGTERM."""
    any_node.run("mkdir -p www && echo hello >www/index.html")
    with any_node.start("exec python3 -u -m http.server -d www 8081") as server:
        any_node.wait_for_port(8081)
        with any_node.forward(8081) as web:
            assert urllib.request.urlopen(f"http://{web.host}:{web.port}/", timeout=60).read() == b"hello\n"
        any_node.wait_until_succeeds("true")
        assert server.running
        assert server.status is None
        assert "Serving HTTP on 0.0.0.0 port 8081" in server.stdout
        assert "GET / HTTP/1.1" in server.stderr
        assert any_node.programs == (server,)
        assert any_node.run(f"ps -o user= -p {server.pid}").stdout == "pi\n"

    assert (server.running, server.status) == (False, 128 + 15)
    assert any_node.programs == ()
    assert not any_node.run(f"kill -0 {server.pid}", warn=True).ok
    server.stop()


class TimeIsUp(BaseException):
    """What pytest-timeout's handler raises is no ``Exception``, either."""


def test_given_up_command_is_ended(any_node: Node) -> None:
    """The next test on the node does not find it: its time was up, or the test's, while it ran or waited for a port."""

    def time_is_up(number: int, frame: object) -> None:
        raise TimeIsUp

    with pytest.raises(CommandTimedOut):
        any_node.run("sleep 4321; true", timeout=2)
    with pytest.raises(CommandTimedOut):
        any_node.sudo("sleep 4321", timeout=2)
    usual = signal.signal(signal.SIGALRM, time_is_up)
    try:
        for wait in (lambda: any_node.run("sleep 4321"), lambda: any_node.wait_for_port(81)):
            signal.setitimer(signal.ITIMER_REAL, 2)
            with pytest.raises(TimeIsUp):
                wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)

    any_node.wait_until_succeeds("! pgrep -fx 'sleep 4321' && ! pgrep -fx 'bash -c until .*'", timeout=30)


def greet(pi: Node) -> str:
    return pi.run("echo hello from $(hostname)").stdout


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_node_in_other_processes(any_node: Node) -> None:
    """A child inherits it, a pool and a new process get it by pickle, and the parent's connection goes on."""
    fork, hello = multiprocessing.get_context("fork"), "hello from pi-1\n"
    promise = any_node.run("sleep 3; echo parent", asynchronous=True)
    answers = fork.SimpleQueue()
    child = fork.Process(target=lambda: answers.put(greet(any_node)))
    child.start()
    assert answers.get() == hello
    child.join()
    with fork.Pool(2) as pool:
        assert pool.map(greet, [any_node] * 4) == [hello] * 4
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).run('hostname').stdout)"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(any_node), stdout=-1, check=True)

    assert done.stdout.strip() == b"pi-1"
    assert promise.join().stdout == "parent\n"
    assert greet(any_node) == hello


def test_program_that_ends_by_itself(any_node: Node) -> None:
    """Its status and all of its output are there, of a command that does not exist, too."""
    much = any_node.start("seq 300000; echo failed >&2; exit 3")
    none = any_node.start("no-such-command --option")

    assert much.wait() == 3
    assert much.stdout.splitlines() == [str(number) for number in range(1, 300001)]
    assert much.stderr == "failed\n"
    assert none.wait() == 127
    assert "no-such-command" in none.stderr
    for each in (much, none):
        each.stop()
        assert not each.running
    assert (much.status, none.status) == (3, 127)


def test_program_that_still_runs(any_node: Node) -> None:
    """The wait has a limit, and shows what was printed."""
    with any_node.start("echo begun; sleep 4711") as program:
        with pytest.raises(WaitTimeout, match="'echo begun; sleep 4711' still runs on pi-1 after 1 s") as caught:
            program.wait(timeout=1)
        assert caught.value.evidence == "begun"


def test_daemon_is_stopped_with_the_program(any_node: Node) -> None:
    """Also one that has left its session and has the output open; the program's own end is not waited for in vain."""
    program = any_node.start("setsid sleep 4712 & setsid sudo -n setsid sleep 4713 & sleep 0.5; echo started")

    assert program.wait() == 0
    assert program.stdout == "started\n"
    assert processes(any_node, "sleep 4712")
    assert processes(any_node, "sleep 4713")
    program.stop()
    assert processes(any_node, "sleep 4712") == processes(any_node, "sleep 4713") == []


def test_program_that_ignores_the_signal(any_node: Node) -> None:
    """It is killed, when its time is up."""
    program = any_node.start("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    program.stop(timeout=1)

    assert program.status == 128 + 9
    assert program.stdout == "ready\n"


def test_program_of_root(any_node: Node) -> None:
    """It runs as root as a whole, and is stopped."""
    with any_node.start("id -u; exec sleep 4714", sudo=True) as program:
        assert processes(any_node, "sleep 4714") == [str(program.pid)]
        any_node.wait_until_succeeds("true")
        assert program.stdout == "0\n"

    assert processes(any_node, "sleep 4714") == []


def test_shells_that_print(any_node: Node) -> None:
    """What the login shell and sudo say is not the program's."""
    any_node.run("cp .bashrc saved; { echo echo welcome; echo 'echo careful >&2'; cat saved; } >.bashrc")
    any_node.run("sudo sed -i 's/ pi-1$/ pi-1-hidden/' /etc/hosts")
    try:
        for sudo in (False, True):
            program = any_node.start("echo out; echo err >&2", sudo=sudo)
            assert (program.wait(), program.stdout, program.stderr) == (0, "out\n", "err\n")
            program.stop()
    finally:
        any_node.run("mv saved .bashrc; sudo sed -i 's/ pi-1-hidden$/ pi-1/' /etc/hosts")


def test_program_of_a_node_that_loses_its_power(any_node: Node) -> None:
    """Who waits for it is told of the node; after the restart nothing of it is there, and stopping it is no error."""
    any_node.run("sync")  # else the power cut takes back what other tests have put back
    program = any_node.start("sleep 4715")
    fault = any_node.power_cut()

    with pytest.raises(NodeDied, match=r"pi-1 is off since power_cut\(\)"):
        program.wait()
    with pytest.raises(NodeDied, match=r"pi-1 is off since power_cut\(\)"):
        any_node.start("true")
    program.stop()
    fault.undo()
    assert processes(any_node, "sleep 4715") == []


def test_program_whose_connection_is_closed(any_node: Node) -> None:
    """It is stopped then; a program of another process is that one's affair."""
    program = any_node.start("sleep 4716")
    with contextlib.closing(Cluster.attach(any_node.directory.parent)) as seen:
        assert seen[0].programs == ()
        other = seen[0].start("sleep 4717")
        assert processes(any_node, "sleep 4717")
    assert processes(any_node, "sleep 4717") == []
    assert not other.running
    assert program.running

    any_node.connection.close()
    with pytest.raises(WaitError, match="The connection to pi-1 ended while it ran 'sleep 4716'"):
        program.wait()
    program.stop()
    assert processes(any_node, "sleep 4716") == []


def test_folder_there_and_back(any_node: Node, tmp_path: Path) -> None:
    """What is in it is the same, and programs run."""
    (tmp_path / "app" / "bin").mkdir(parents=True)
    (tmp_path / "app" / "bin" / "run").write_text("#!/bin/sh\necho it runs\n")
    (tmp_path / "app" / "bin" / "run").chmod(0o755)
    (tmp_path / "app" / "link").symlink_to("bin/run")
    for number in range(200):
        (tmp_path / "app" / f"file {number}").write_bytes(os.urandom(number * 100))

    assert any_node.put(tmp_path / "app").remote == "/home/pi/app"
    assert any_node.run("app/link").stdout == "it runs\n"
    any_node.get("app", tmp_path / "back")

    done = subprocess.run(["diff", "-r", "--no-dereference", "app", "back"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    with pytest.raises(CopyError, match="Permission denied"):
        any_node.put(tmp_path / "app", "/etc")


@pytest.mark.qemu
def test_program_at_the_end_of_its_test(pytester: pytest.Pytester, inner_clusters: object) -> None:
    """If the test fails, the report has what it printed; the next test on the node does not find it."""
    pytester.makepyfile(
        textwrap.dedent("""
        def test_one(pi):
            pi.run("touch here")
            pi.start("setsid sleep 4718 & exec sleep 4718")
            pi.start("echo cannot listen >&2; exit 3").wait()
            pi.wait_until_succeeds("pgrep -fx 'sleep 4718'")
            assert not "reached"

        def test_two(pi):
            assert pi.run("ls here").ok
            assert pi.run("pgrep -fx 'sleep 4718'", warn=True).stdout == ""
            assert pi.run("ls -d /sys/fs/cgroup/pidoc-* 2>/dev/null", warn=True).stdout == ""
        """)
    )

    result = pytester.runpytest_subprocess("-q")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*pi-1 started program (running), last lines*",
            "$ setsid sleep 4718 & exec sleep 4718",
            "*pi-1 started program (status 3), last lines*",
            "$ echo cannot listen >&2; exit 3",
            "cannot listen",
        ]
    )


def test_files_as_root(any_node: Node) -> None:
    """A configuration is written where only root may, and read; its old owner and mode stay."""
    with pytest.raises(PermissionError, match=r"pi has no right to it on pi-1; pass sudo=True: '/etc/app.conf'"):
        any_node.write("/etc/app.conf", "port = 80\n")
    any_node.write("/etc/app.conf", "port = 80\n", sudo=True, mode=0o640, owner="root:adm")
    any_node.write("/etc/app.conf", "port = 81\n", sudo=True)

    assert any_node.run("stat -c '%U:%G %a' /etc/app.conf").stdout == "root:adm 640\n"
    assert any_node.read("/etc/app.conf", sudo=True) == "port = 81\n"
    with pytest.raises(PermissionError, match="pass sudo=True: '/root/file'"):
        any_node.read("/root/file")
    with pytest.raises(FileNotFoundError, match=r"call sudo\('mkdir -p /etc/app'\) first: '/etc/app/port'"):
        any_node.write("/etc/app/port", "80", sudo=True)
    any_node.sudo("rm /etc/app.conf")


def test_files_of_the_kernel(any_node: Node) -> None:
    """What cannot be replaced is written to."""
    any_node.write("/proc/sys/vm/swappiness", "42", sudo=True)
    assert any_node.read("/proc/sys/vm/swappiness") == "42\n"
    with pytest.raises(CopyError, match="Invalid argument"):
        any_node.write("/proc/sys/vm/swappiness", "many", sudo=True)


def test_file_of_a_shell_that_speaks(any_node: Node) -> None:
    """What a login says is not in a text; the user's own file keeps its owner when root writes it."""
    before = any_node.read(".bashrc")
    any_node.write(".bashrc", f"echo welcome; echo back >&2\n{before}", sudo=True)
    try:
        any_node.write("hello", b"#!/bin/sh\necho hello\n", mode=0o755)
        assert any_node.read("hello") == "#!/bin/sh\necho hello\n"
        assert any_node.run("stat -c %U .bashrc; ./hello").stdout == "welcome\npi\nhello\n"
    finally:
        any_node.write(".bashrc", before)

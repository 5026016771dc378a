"""Steps that are done: functions, scripts on real SSH servers in this process, and playbooks by a real Ansible."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Steps, eventually

from pytest_pidoc.errors import NodeDied, PrepareError, SettingsError
from pytest_pidoc.steps import running
from pytest_pidoc.steps.steps import Function, Playbook, Recorded, Script, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_pidoc.cluster import Cluster

needs_ansible = pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="ansible-playbook is not installed")


def hello(cluster: Any) -> None:
    cluster.run("echo hello > hello")


def wrong(cluster: Any) -> None:
    answer = cluster[0].run("echo no").stdout
    assert answer == "yes\n"


def dies(cluster: Any) -> None:
    raise NodeDied("pi-1 is off.")


def fails(cluster: Any) -> None:
    cluster.run("echo so; test $(cat name) != pi-2")


def test_function(cluster: Cluster, homes: list[Path]) -> None:
    """It is called with the cluster."""
    progress = Steps()
    running.run(Function.of(hello), cluster, progress=progress)

    assert [(home / "hello").read_text() for home in homes] == ["hello\n"] * 3
    assert progress.texts == ["preparing 3 x nodes: hello()"]


def test_function_that_fails(cluster: Cluster) -> None:
    """The error names the function, the line in it and what was raised there, which is the error's cause."""
    with pytest.raises(PrepareError) as caught:
        running.run(Function.of(wrong), cluster, progress=Steps())
    assert caught.value.what == "wrong(), which prepares the cluster, raised AssertionError."
    assert caught.value.look == f"{__file__}:{wrong.__code__.co_firstlineno + 2}"
    assert isinstance(caught.value.__cause__, AssertionError)

    with pytest.raises(PrepareError) as caught:
        running.run(Function.of(fails), cluster, progress=Steps())
    assert "failed on 1 of 3 nodes: pi-2" in caught.value.evidence
    with pytest.raises(NodeDied, match="pi-1 is off"):
        running.run(Function.of(dies), cluster, progress=Steps())


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "set up.sh") -> Script:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Script.of(tmp_path / name)

    return write


def left(homes: list[Path]) -> list[str]:
    return [path.name for home in homes for path in home.glob(".pidoc-*")]


@pytest.mark.parametrize("first", ["", "#!/bin/sh\n", "#!/usr/bin/env -S sh -e\n"])
def test_script(cluster: Cluster, homes: list[Path], script: Any, first: str) -> None:
    """It runs on all nodes, in root's home, knows which node it is on, and its shebang counts; no file of it stays."""
    step = script(f'{first}echo "$PIDOC_NODE of $PIDOC_NODES at $PIDOC_ADDRESS" > told; cat > input; id\n')
    running.run(step, cluster, progress=Steps())

    addresses = [node.lan_address for node in cluster]
    assert None not in addresses
    assert [(home / "told").read_text() for home in homes] == [
        f"pi-{number} of pi-1 pi-2 pi-3 at {address}\n" for number, address in enumerate(addresses, 1)
    ]
    assert (homes[0] / "input").read_text() == ""
    assert left(homes) == []


def test_script_is_run_by_what_it_names(cluster: Cluster, homes: list[Path], script: Any) -> None:
    """Python, if it says so."""
    running.run(script("#!/usr/bin/env python3\nimport os; os.mkdir('made')\n", "x"), cluster, progress=Steps())

    assert all((home / "made").is_dir() for home in homes)


def test_script_that_fails(cluster: Cluster, homes: list[Path], script: Any) -> None:
    """The error names the nodes, the status of each and the end of its output; equal ones are shown once."""
    step = script(
        "seq 100; case $PIDOC_NODE in pi-1) ;; pi-2) printf '\\033[31mno\\n' >&2; exit 3;; *) echo x; exit 4; esac"
    )
    with pytest.raises(PrepareError) as caught:
        running.run(step, cluster, progress=Steps())
    what, *evidence = str(caught.value).splitlines()

    assert what == "set up.sh failed on 2 of 3 nodes: pi-2, pi-3."
    assert evidence[0] == "    pi-2: exit status 3"
    assert evidence[15] == "    no"
    assert evidence[16] == "    pi-3: exit status 4"
    assert evidence[-1] == "Try: correct the script; it runs again in the next start, on new nodes"
    assert left(homes) == []

    with pytest.raises(PrepareError) as caught:
        running.run(script("echo the same; exit 1"), cluster, progress=Steps())
    assert caught.value.evidence.splitlines()[0] == "pi-1, pi-2, pi-3: exit status 1"
    assert caught.value.evidence.count("the same") == 1


def test_script_of_windows(cluster: Cluster, script: Any) -> None:
    """What the shell says of it is hard to understand, so the tip says it."""
    with pytest.raises(PrepareError) as caught:
        running.run(script("#!/bin/sh\r\necho x\r\n"), cluster, progress=Steps())

    assert caught.value.tip == "save the script with the line ends of Unix"


def test_script_that_never_ends(cluster: Cluster, script: Any) -> None:
    """It is ended on the nodes when its time is up."""
    step = script("echo waiting on $PIDOC_NODE; test $PIDOC_NODE = pi-1 || sleep 987.25")
    with pytest.raises(PrepareError) as caught:
        running.run(step, cluster, progress=Steps(), timeout=1)

    assert caught.value.what == "set up.sh failed on 2 of 3 nodes: pi-2, pi-3."
    assert "pi-2: not finished after 1 s\nas root:\nwaiting on pi-2" in caught.value.evidence
    assert eventually(lambda: not running_commands("987.25"))


def running_commands(argument: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in words:
            found.append(int(path.parent.name))
    return found


def test_script_that_is_gone(cluster: Cluster, script: Any) -> None:
    """It is named."""
    step = script("true")
    step.path.unlink()
    with pytest.raises(SettingsError, match=r"prepare: .*/set up\.sh cannot be read: No such file"):
        running.run(step, cluster, progress=Steps())


def test_progress_says_which_step_and_how_long(
    cluster: Cluster, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which of several it is, and again and again for how long it has been done."""
    step, go = script("until [ -e go ]; do sleep 0.05; done"), threading.Event()

    class Spec:
        model, prepare = "pi3-virt", (*read(hello, places=[]), step)

    class Progress(Steps):
        def step(self, text: str) -> None:
            super().step(text)
            if "so far" in text and not go.is_set():
                go.set()
                for path in (tmp_path / "homes").iterdir():
                    (path / "go").touch()

    monkeypatch.setattr(running, "TELL_EVERY", 0.2)
    cluster.spec = Spec  # type: ignore[assignment]
    progress = Progress()
    running.run(step, cluster, progress=progress)

    assert progress.texts[0] == "preparing 3 x pi3-virt: set up.sh, step 2 of 2"
    assert progress.texts[1] == f"{progress.texts[0]}, for 0 s so far"


class Here:
    """A cluster of which all that Ansible needs to know is that it is this host."""

    spec = None

    def __len__(self) -> int:
        return 2

    def inventory(self) -> str:
        python = f"      ansible_python_interpreter: {sys.executable}\n"
        hosts = "".join(f"    pi-{number}:\n      ansible_connection: local\n{python}" for number in (1, 2))
        return f"pidoc:\n  hosts:\n{hosts}"


def playbook(folder: Path, text: str) -> Playbook:
    path = folder / "site.yml"
    path.write_text(text)
    return Playbook.of(path)


@needs_ansible
def test_playbook(tmp_path: Path) -> None:
    """It runs in its folder, with the nodes, and each of its tasks is told."""
    step = playbook(
        tmp_path,
        "- hosts: pidoc\n  gather_facts: false\n  tasks:\n    - name: writing\n"
        f"      copy: {{content: '{{{{ playbook_dir }}}}', dest: '{tmp_path}/{{{{ inventory_hostname }}}}'}}\n",
    )
    progress = Steps()
    running.run(step, Here(), progress=progress)  # type: ignore[arg-type]

    assert [(tmp_path / name).read_text() for name in ("pi-1", "pi-2")] == [str(tmp_path)] * 2
    assert progress.texts == [
        f"preparing 2 x nodes: site.yml{part}" for part in ("", ": PLAY [pidoc]", ": TASK [writing]")
    ]


@needs_ansible
@pytest.mark.parametrize(
    ("text", "what", "said"),
    [
        (
            "- hosts: all\n  gather_facts: false\n  tasks:\n    - fail: {msg: not here}\n"
            "      when: inventory_hostname == 'pi-2'\n",
            "site.yml failed on pi-2: ansible-playbook ended with status 2.",
            "not here",
        ),
        ("- hosts: all\n  tasks: [\n", "site.yml failed: ansible-playbook ended with status 4.", "YAML"),
        ("- hosts: etcd\n  tasks: []\n", "site.yml did nothing, since its hosts are none of the nodes.", "etcd"),
    ],
)
def test_playbook_that_fails(tmp_path: Path, text: str, what: str, said: str) -> None:
    """The error names the nodes, and shows what Ansible said: also that it is no YAML, or for no node."""
    with pytest.raises(PrepareError) as caught:
        running.run(playbook(tmp_path, text), Here(), progress=Steps())  # type: ignore[arg-type]

    assert caught.value.what == what
    assert said in caught.value.evidence
    assert "\033" not in str(caught.value)


@pytest.fixture
def own_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder whose ``ansible-playbook`` starts a process that goes on, and waits."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ansible-playbook"
    program.write_text("#!/bin/sh\nsleep 986.75 &\necho 'TASK [waiting] ****'\ntouch begun\nsleep 986.75\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    yield folder
    assert eventually(lambda: not running_commands("986.75"))


def test_playbook_that_never_ends(tmp_path: Path, own_ansible: Path) -> None:
    """It is ended with all that it has started when its time is up."""
    progress = Steps()
    with pytest.raises(PrepareError) as caught:
        running.run(playbook(tmp_path, "[]"), Here(), progress=progress, timeout=0.5)  # type: ignore[arg-type]

    assert caught.value.what == "site.yml has not finished after 0.5 s."
    assert "TASK [waiting]" in caught.value.evidence
    assert progress.texts[-1] == "preparing 2 x nodes: site.yml: TASK [waiting]"


def test_playbook_that_is_interrupted(tmp_path: Path, own_ansible: Path) -> None:
    """After Ctrl-C nothing of it runs on."""

    def interrupt() -> None:
        if eventually((tmp_path / "begun").exists):
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        running.run(playbook(tmp_path, "[]"), Here(), progress=Steps())  # type: ignore[arg-type]
    thread.join()


def test_output_that_others_keep_open(tmp_path: Path, own_ansible: Path) -> None:
    """A connection that ssh keeps does not keep the run from ending, and ends."""
    program = own_ansible / "ansible-playbook"
    program.write_text("#!/bin/sh\nsleep 986.75 &\necho ok=1\n")
    began = time.monotonic()
    running.run(playbook(tmp_path, "[]"), Here(), progress=Steps())  # type: ignore[arg-type]

    assert time.monotonic() - began < 300


def test_without_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for before any node is started, and the tip says how to get it; other steps do without."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    running.require([*read(hello, places=[]), Script.of(tmp_path / "x.sh")])
    with pytest.raises(SettingsError) as caught:
        running.require([playbook(tmp_path, "[]")])

    assert caught.value.what == "prepare: site.yml needs ansible-playbook, which is not installed."
    assert "pip install ansible-core" in caught.value.tip


def test_step_that_is_only_known(cluster: Cluster) -> None:
    """What another process did cannot be done again."""
    with pytest.raises(SettingsError, match=r"etcd\(\) is known only as what another process has done"):
        running.run(Recorded("function", "etcd()", "0"), cluster, progress=Steps())

"""By what a playbook is known: its text, and the files that it uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_pidoc.errors import SettingsError
from pytest_pidoc.steps.playbooks import playbook_files
from pytest_pidoc.steps.steps import Playbook

SITE = """
- hosts: pidoc
  vars_files: ["settings/all.yml"]
  roles: [etcd]
  tasks:
    - copy: src=app.conf dest=/etc/hosts
    - template: {src: motd, dest: /etc/motd}
    - include_tasks: 'more tasks.yml'
    - script: "{{ playbook_dir }}/../shared/run.py --now"
    - copy:
        src: dist
        dest: /opt
    - shell: run tests in . and .. and missing.sh
- import_playbook: second.yaml
"""
FILES = {
    "deploy/site.yml": SITE,
    "deploy/second.yaml": "- hosts: all\n  tasks:\n    - unarchive: src=../shared/app.tar\n    - copy: src=loop.yml\n",
    "deploy/loop.yml": "- import_playbook: second.yaml\n",
    "deploy/more tasks.yml": "- debug:\n",
    "deploy/settings/all.yml": "x: 1\n",
    "deploy/settings/other.yml": "x: 1\n",
    "deploy/files/app.conf": "a",
    "deploy/templates/motd": "b",
    "deploy/roles/etcd/tasks/main.yml": "- copy: src=etcd.conf\n",
    "deploy/roles/etcd/files/etcd.conf": "c",
    "deploy/roles/.git/HEAD": "d",
    "deploy/library/__pycache__/x.pyc": "e",
    "deploy/group_vars/all.yml": "y: 2\n",
    "deploy/ansible.cfg": "[defaults]\n",
    "deploy/dist/app.bin": "f",
    "deploy/tests/test_it.py": "g",
    "deploy/README.md": "h",
    "shared/run.py": "i",
    "shared/app.tar": "j",
    "shared/unused.txt": "k",
}
USED = [
    *("../shared/app.tar", "../shared/run.py", "ansible.cfg", "dist/app.bin", "files/app.conf", "group_vars/all.yml"),
    *("loop.yml", "more tasks.yml", "roles/etcd/files/etcd.conf", "roles/etcd/tasks/main.yml", "second.yaml"),
    *("settings/all.yml", "site.yml", "templates/motd"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def content(project: Path) -> str:
    return Playbook.of(project / "deploy" / "site.yml").content


def test_files_of_a_playbook(project: Path) -> None:
    """They are those in Ansible's folders, and those that the text names, from file to file; no others."""
    assert list(playbook_files(project / "deploy" / "site.yml")) == USED


@pytest.mark.parametrize("name", USED)
def test_change_of_a_file_that_it_uses(project: Path, name: str) -> None:
    """Each of them counts: its text, whether it can be executed, and whether it is there."""
    path, before = project / "deploy" / name, content(project)
    text = path.read_text()
    path.write_text(f"{text} ")
    assert content(project) != before
    path.write_text(text)
    path.chmod(0o755)
    assert content(project) != before
    path.chmod(0o644)
    assert content(project) == before
    if name != "site.yml":
        path.unlink()
        assert content(project) != before


@pytest.mark.parametrize("name", sorted(set(FILES) - {f"deploy/{name}".replace("deploy/../", "") for name in USED}))
def test_change_of_another_file(project: Path, name: str) -> None:
    """What the playbook does not name does not matter."""
    before = content(project)
    (project / name).write_text("changed")

    assert content(project) == before


def test_it_is_the_same_elsewhere(project: Path) -> None:
    """A checkout in another folder, with other times, has the same clusters."""
    before = content(project)
    shutil.copytree(project, project.parent / "elsewhere" / "else", copy_function=shutil.copyfile)

    assert content(project.parent / "elsewhere" / "else") == before


def test_links_in_a_circle(project: Path) -> None:
    """A role is often a link to another folder; one that leads up again ends there, and one to nowhere is one."""
    role = project / "shared" / "role"
    role.mkdir()
    (role / "main.yml").write_text("- debug:")
    (project / "deploy" / "roles" / "linked").symlink_to(role)
    (role / "up").symlink_to(project / "deploy" / "roles")
    (role / "nowhere").symlink_to("gone")
    before = content(project)
    (role / "main.yml").write_text("- fail:")
    assert content(project) != before
    (role / "main.yml").write_text("- debug:")
    (role / "nowhere").unlink()
    (role / "nowhere").symlink_to("elsewhere")
    assert content(project) != before


def test_playbook_that_is_gone(project: Path) -> None:
    """The file is named, and that it must stay."""
    step = Playbook.of(project / "deploy" / "site.yml")
    assert step.content == step.digest()
    step.path.unlink()

    assert step.has_changed()
    with pytest.raises(SettingsError, match=r"^prepare: '.*site\.yml' cannot be read: No such file") as caught:
        step.digest()
    assert caught.value.tip.startswith("do not change or remove the file")


def test_text_that_is_no_yaml(project: Path) -> None:
    """Whatever is in it, it is only looked through for names of files."""
    playbook = project / "deploy" / "site.yml"
    playbook.write_bytes(b"\xff\x00 ../../../../.. /etc/passwd ~/.ssh " + b"x" * 5000 + b" src=.. src=/ src=./ 'a\0b'")

    assert "site.yml" in playbook_files(playbook)
    assert not [name for name in playbook_files(playbook) if "passwd" in name or "test_it" in name]

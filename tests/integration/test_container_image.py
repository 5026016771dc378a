"""Container images: built on a real daemon, pushed to and pulled from a real registry."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bare_metal import GREETING, make_image
from support import Steps

from pytest_pidoc.containers import build as container_image
from pytest_pidoc.containers.build import build, tag
from pytest_pidoc.containers.daemon import GUEST_LABEL, IMAGE_LABEL, connect
from pytest_pidoc.containers.registry import pull
from pytest_pidoc.containers.running import remove_session
from pytest_pidoc.containers.stored import discard, stored
from pytest_pidoc.engines.docker import DockerEngine
from pytest_pidoc.errors import DownloadError, EngineUnavailable, ImageError
from pytest_pidoc.machines import MIB, machine
from pytest_pidoc.qemu.launch import Launch
from pytest_pidoc.values.files import SERIAL_LOG
from pytest_pidoc.values.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from pytest_pidoc.images.store.image import Image

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    client.close()


@pytest.fixture
def forget(client: docker.DockerClient) -> Iterator[Callable[[str], None]]:
    """Remove the images of these names when the test ends."""
    names: list[str] = []
    yield names.append
    for name in names:
        with contextlib.suppress(Exception):
            client.images.remove(name, force=True)


@pytest.fixture
def guest(tmp_path: Path) -> Image:
    """Make a guest that no other test has, so that its container image is new."""
    return make_image(tmp_path / "image", greeting=GREETING + secrets.token_hex(4).encode())


@pytest.fixture
def built(client: docker.DockerClient, guest: Image, tmp_path: Path, forget: Callable[[str], None]) -> str:
    reference = build(client, guest, directory=tmp_path / "containers", progress=Progress())
    forget(reference)
    return reference


def start(client: docker.DockerClient, reference: str, image: Image, directory: Path) -> bytes:
    """Start a node and return its first serial output."""
    directory.mkdir(mode=0o700)
    launch = Launch("pi-1", f"test-{os.getpid()}", directory, machine("pi3-virt"), image, memory=128 * MIB)
    engine = DockerEngine(client, reference)
    try:
        endpoint = engine.start(launch)
        end = time.monotonic() + 10
        while GREETING not in (said := (directory / SERIAL_LOG).read_bytes()) and time.monotonic() < end:
            time.sleep(0.02)
        mounts = client.api.inspect_container(endpoint.handle)["Mounts"]
        assert [mount["Destination"] for mount in mounts] == ["/run/pidoc"]
        return said
    finally:
        remove_session(launch.cluster, client)


class TestBuild:
    def test_the_guest_in_the_image_is_what_runs(
        self, client: docker.DockerClient, built: str, guest: Image, tmp_path: Path
    ) -> None:
        """A node boots from the guest inside; nothing of the image's directory is mounted or needed."""
        for role in ("kernel", "initrd", "disk"):
            guest.file(role).unlink()
        assert GREETING in start(client, built, guest, tmp_path / "pi-1")

    def test_the_labels_say_what_it_is(self, client: docker.DockerClient, built: str, guest: Image) -> None:
        """Pull and the engine rely on them."""
        labels = client.images.get(built).labels
        assert labels[IMAGE_LABEL] == "pidoc"
        assert labels[GUEST_LABEL] == guest.manifest.key

    def test_a_name_to_push_it_under(
        self, client: docker.DockerClient, built: str, forget: Callable[[str], None]
    ) -> None:
        """The same image has a second name; one that is none is refused with the daemon's reason."""
        name = f"registry.example:5000/{secrets.token_hex(4)}"
        forget(name)
        tag(client, built, name)
        assert client.images.get(f"{name}:latest").id == client.images.get(built).id
        with pytest.raises(EngineUnavailable, match="invalid reference"):
            tag(client, built, "Not/A Name")

    def test_what_is_stored_is_found_and_removed(
        self, client: docker.DockerClient, built: str, guest: Image, forget: Callable[[str], None]
    ) -> None:
        """Each container image of ours is listed with its guest; one that a container uses is not removed."""
        (entry,) = [entry for entry in stored(client) if entry.guest == guest.manifest.key]
        assert (entry.kind, entry.names) == ("pidoc", (built,))
        assert entry.size > 100_000_000
        user = client.api.create_container(built, command=["nothing"])["Id"]
        assert not discard(client, entry)
        client.api.remove_container(user)
        assert discard(client, entry)
        assert discard(client, entry)
        assert entry.id not in {entry.id for entry in stored(client)}

    def test_what_a_user_named_is_not_ours(
        self, client: docker.DockerClient, built: str, guest: Image, forget: Callable[[str], None]
    ) -> None:
        """An image that has a name of the user's too keeps it; then it is not listed any more."""
        tag(client, built, "pidoc-test/kept:1")
        forget("pidoc-test/kept:1")
        (entry,) = [entry for entry in stored(client) if entry.guest == guest.manifest.key]
        assert discard(client, entry)
        assert client.images.get("pidoc-test/kept:1").tags == ["pidoc-test/kept:1"]
        assert guest.manifest.key not in {entry.guest for entry in stored(client)}

    def test_a_second_build_has_nothing_to_do(
        self, client: docker.DockerClient, built: str, guest: Image, tmp_path: Path
    ) -> None:
        """The same ingredients are the same image; nothing is said, as nothing is done."""
        steps = Steps()
        assert build(client, guest, directory=tmp_path / "containers", progress=steps) == built
        assert steps.texts == []

    def test_a_build_leaves_no_nameless_image(
        self, client: docker.DockerClient, guest: Image, tmp_path: Path, forget: Callable[[str], None]
    ) -> None:
        """The stages before the last are removed."""
        before = {image.id for image in stored(client) if not image.names}
        forget(build(client, guest, directory=tmp_path, progress=Progress()))
        assert {image.id for image in stored(client) if not image.names} == before

    def test_qemu_in_the_image_reads_the_guest_but_not_its_key(self, client: docker.DockerClient, built: str) -> None:
        """Any user reads the disk; only root, which no node's QEMU is outside of rootless Docker, the key."""
        read = functools.partial(client.containers.run, built, entrypoint=["sh", "-c"], remove=True, user="4711:4711")
        assert read(["wc -c </guest/disk.qcow2"]).strip() != b"0"
        assert read(["cat /guest/id_ed25519 2>&1 || true"]).endswith(b"Permission denied\n")

    def test_a_base_image_that_cannot_be_had(self, client: docker.DockerClient, tmp_path: Path) -> None:
        """One of the user's own has no stand-in."""
        with pytest.raises(
            ImageError, match=r"base image 127\.0\.0\.1:1/none:1 is missing and cannot be pulled"
        ) as caught:
            build(client, directory=tmp_path, progress=Progress(), base_image="127.0.0.1:1/none:1")
        assert "docker pull 127.0.0.1:1/none:1" in caught.value.tip

    @pytest.mark.parametrize(
        ("mmdebstrap", "said"),
        [(None, "nor built without mmdebstrap"), ("#!/bin/sh\necho E: no mirror >&2\nexit 25\n", "E: no mirror")],
    )
    def test_no_registry_and_no_mmdebstrap(
        self,
        client: docker.DockerClient,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        mmdebstrap: str | None,
        said: str,
    ) -> None:
        """Where the default base can be neither pulled nor made, the error names the remedy."""
        if mmdebstrap is not None:
            (tmp_path / "mmdebstrap").write_text(mmdebstrap)
            (tmp_path / "mmdebstrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(container_image, "BASE_IMAGE", "127.0.0.1:1/none:1")
        monkeypatch.setattr(container_image, "OWN_BASE", "pytest-pidoc/none:1")
        with pytest.raises(ImageError) as caught:
            build(client, directory=tmp_path, progress=Progress(), base_image="127.0.0.1:1/none:1")
        assert said in str(caught.value)

    def test_a_base_that_is_no_debian(
        self, client: docker.DockerClient, tmp_path: Path, forget: Callable[[str], None]
    ) -> None:
        """A build that fails shows the end of its log, and where all of it is."""
        empty = tmp_path / "empty.tar"
        subprocess.run(["tar", "-cf", str(empty), "-T", "/dev/null"], check=True)
        client.api.import_image_from_file(str(empty), repository="pidoc-test/empty", tag="1")
        forget("pidoc-test/empty:1")
        with pytest.raises(ImageError, match="docker build failed for the container image") as caught:
            build(client, directory=tmp_path, progress=Progress(), base_image="pidoc-test/empty:1")
        assert "/bin/sh" in caught.value.evidence
        assert Path(caught.value.look).exists()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Run a registry on a port of its own; give its address."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = tmp_path / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        host, port = address.split(":")
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end, "docker-registry does not start"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def push(client: docker.DockerClient, image: str, repository: str) -> None:
    """Push *image* under another name, and make the daemon forget that name."""
    client.api.tag(image, repository, "1")
    answers = list(client.api.push(repository, tag="1", stream=True, decode=True))
    client.api.remove_image(f"{repository}:1")
    assert not [answer for answer in answers if "error" in answer]


@pytest.fixture
def small(client: docker.DockerClient, tmp_path: Path, forget: Callable[[str], None]) -> Callable[..., str]:
    """Make an image without QEMU: the guest's folder and the labels, which is all that pull looks at."""

    def make(image: Image, **labels: str) -> str:
        archive = tmp_path / "small.tar"
        subprocess.run(
            [
                "tar",
                "-cf",
                str(archive),
                "--transform",
                "s,^,guest/,",
                "-C",
                str(image.path),
                *(path.name for path in image.path.iterdir()),
            ],
            check=True,
        )
        names = {IMAGE_LABEL: "pidoc", GUEST_LABEL: image.manifest.key, **labels}
        changes = [f"LABEL {name}={value}" for name, value in names.items()]
        tag = secrets.token_hex(4)
        client.api.import_image(str(archive), repository="pidoc-test/small", tag=tag, changes=changes)
        forget(f"pidoc-test/small:{tag}")
        return f"pidoc-test/small:{tag}"

    return make


class TestPull:
    def test_a_published_image_runs_here(
        self,
        client: docker.DockerClient,
        registry: str,
        built: str,
        guest: Image,
        tmp_path: Path,
        forget: Callable[[str], None],
    ) -> None:
        """Pushed, forgotten, pulled: the guest boots, and this host has its manifest and key, but no disk."""
        push(client, built, f"{registry}/pidoc")
        client.api.remove_image(built)
        steps = Steps()
        reference, image = pull(client, f"docker://{registry}/pidoc:1", directory=tmp_path / "pulled", progress=steps)
        forget(reference)
        assert image.manifest == guest.manifest
        assert sorted(path.name for path in image.path.iterdir()) == ["id_ed25519", "manifest.json"]
        assert stat.S_IMODE(image.file("private_key").stat().st_mode) == 0o600
        assert image.file("private_key").read_bytes() == guest.file("private_key").read_bytes()
        assert any("layers" in text for text in steps.texts)
        shutil.rmtree(guest.path)
        assert GREETING in start(client, reference, image, tmp_path / "pi-1")

    def test_what_is_here_needs_no_registry(
        self, client: docker.DockerClient, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """An image that the daemon has is not asked for; a second time nothing is done at all."""
        reference = small(guest)
        first = pull(client, reference, directory=tmp_path / "pulled", progress=Progress())
        steps = Steps()
        assert pull(client, reference, directory=tmp_path / "pulled", progress=steps) == first
        assert steps.texts == []
        assert remove_session(f"pull-{os.getpid()}", client) == 0

    def test_a_tampered_key_is_taken_again(
        self, client: docker.DockerClient, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """One flipped byte in the copy of the key is found, and the key is taken out of the image anew."""
        reference = small(guest)
        _, image = pull(client, reference, directory=tmp_path / "pulled", progress=Progress())
        key = image.file("private_key")
        key.write_bytes(bytes([key.read_bytes()[0] ^ 1]) + key.read_bytes()[1:])
        pull(client, reference, directory=tmp_path / "pulled", progress=Progress())
        assert key.read_bytes() == guest.file("private_key").read_bytes()

    def test_an_image_of_somebody_else(
        self, client: docker.DockerClient, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """Without our labels it is refused, and so is a guest that is not the one of the label."""
        with pytest.raises(ImageError, match="is not a container image with a guest"):
            pull(client, small(guest, **{IMAGE_LABEL: "x"}), directory=tmp_path / "pulled", progress=Progress())
        with pytest.raises(ImageError, match="belongs to another guest"):
            pull(client, small(guest, **{GUEST_LABEL: "f" * 64}), directory=tmp_path / "pulled", progress=Progress())
        assert [path.name for path in (tmp_path / "pulled").iterdir() if path.is_dir()] == []

    def test_an_image_without_a_key(
        self, client: docker.DockerClient, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """An image that nobody could log in to is refused."""
        guest.file("private_key").unlink()
        with pytest.raises(ImageError, match="does not contain /guest/id_ed25519"):
            pull(client, small(guest), directory=tmp_path / "pulled", progress=Progress())

    def test_a_link_is_not_followed(
        self, client: docker.DockerClient, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """A key that is a link in the image is no file, wherever it leads."""
        guest.file("private_key").unlink()
        guest.file("private_key").symlink_to("/etc/shadow")
        with pytest.raises(ImageError, match="is not a regular file"):
            pull(client, small(guest), directory=tmp_path / "pulled", progress=Progress())

    def test_a_tag_that_is_not_there(self, client: docker.DockerClient, registry: str, tmp_path: Path) -> None:
        """The registry answers, and has no such image."""
        with pytest.raises(ImageError, match=r"/pidoc:2 does not exist or cannot be pulled") as caught:
            pull(client, f"docker://{registry}/pidoc:2", directory=tmp_path, progress=Progress())
        assert not isinstance(caught.value, DownloadError)

    def test_a_registry_that_is_not_there(self, client: docker.DockerClient, tmp_path: Path) -> None:
        """A refused connection is told as that."""
        with pytest.raises(DownloadError, match="connection refused"):
            pull(client, "docker://127.0.0.1:1/pidoc:1", directory=tmp_path, progress=Progress())

    def test_a_name_that_is_none(self, client: docker.DockerClient, tmp_path: Path) -> None:
        """A mistyped reference is an ImageError, too."""
        with pytest.raises(ImageError):
            pull(client, "docker://Not A Name", directory=tmp_path, progress=Progress())

    def test_an_image_that_is_cut_off(
        self, client: docker.DockerClient, registry: str, guest: Image, small: Callable[..., str], tmp_path: Path
    ) -> None:
        """A layer that arrives short is found out by the daemon; nothing of it is used."""
        reference = small(guest)
        push(client, reference, f"{registry}/small")
        client.api.remove_image(reference)
        blobs = sorted((tmp_path / "registry").rglob("data"), key=lambda path: path.stat().st_size)
        with blobs[-1].open("r+b") as file:
            file.truncate(blobs[-1].stat().st_size // 2)
        with pytest.raises(DownloadError, match=r"Pulling .* failed"):
            pull(client, f"docker://{registry}/small:1", directory=tmp_path / "pulled", progress=Progress())
        assert [path.name for path in (tmp_path / "pulled").iterdir() if path.is_dir()] == []


@dataclass(frozen=True)
class Upstream:
    """A site that publishes a QEMU, as download.qemu.org does."""

    url: str
    folder: Path
    fingerprint: str
    other: str

    def arguments(self, **more: str) -> dict[str, str]:
        return {
            "QEMU_SOURCE_VERSION": "99.0.1",
            "QEMU_SOURCE_URL": self.url,
            "QEMU_SIGNING_KEY": self.fingerprint,
            "QEMU_SIGNING_KEY_URL": f"{self.url}/key.asc",
            "QEMU_BUILD_PACKAGES": "make",
            **more,
        }


CONFIGURE = """#!/bin/sh
echo "configured with $*"
"""
# The qemu-img of this QEMU is gpg, for the shared libraries that it needs.
MAKEFILE = """
.RECIPEPREFIX = >
all:
install:
> mkdir -p $(DESTDIR)/usr/local/bin
> printf '#!/bin/sh\\necho QEMU emulator version 99.0.1\\n' >$(DESTDIR)/usr/local/bin/qemu-system-arm
> chmod 755 $(DESTDIR)/usr/local/bin/qemu-system-arm
> cp $(DESTDIR)/usr/local/bin/qemu-system-arm $(DESTDIR)/usr/local/bin/qemu-system-aarch64
> cp /usr/bin/gpg $(DESTDIR)/usr/local/bin/qemu-img
"""


@pytest.fixture(scope="module")
def upstream(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Publish a small source package, signed with a throw-away key, where a build's containers reach it."""
    folder = tmp_path_factory.mktemp("upstream")
    source = folder / "qemu-99.0.1"
    source.mkdir()
    (source / "configure").write_text(CONFIGURE)
    (source / "configure").chmod(0o755)
    (source / "Makefile").write_text(MAKEFILE)
    tarball = folder / "qemu-99.0.1.tar.xz"
    subprocess.run(["tar", "-C", str(folder), "-cJf", str(tarball), source.name], check=True)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())  # short: gpg-agent listens on a socket in it
        environment = {**os.environ, "GNUPGHOME": home}
        run = functools.partial(subprocess.run, env=environment, check=True, capture_output=True, text=True)
        stack.callback(run, ["gpgconf", "--kill", "all"])
        fingerprints = []
        for name in ("release", "other"):
            run(["gpg", "--batch", "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", "never"])
            listing = run(["gpg", "--batch", "--with-colons", "--list-keys", f"={name}"]).stdout
            fingerprints.append(next(line for line in listing.splitlines() if line.startswith("fpr")).split(":")[9])
        (folder / "key.asc").write_text(run(["gpg", "--batch", "--armor", "--export"]).stdout)
        run(["gpg", "--batch", "--local-user", "release", "--detach-sign", str(tarball)])
        gateway = client.api.inspect_network("bridge")["IPAM"]["Config"][0].get("Gateway", "172.17.0.1")
        handler = functools.partial(Quiet, directory=str(folder))
        server = stack.enter_context(http.server.ThreadingHTTPServer((gateway, 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield Upstream(f"http://{gateway}:{server.server_port}", folder, *fingerprints)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if "/hang/" in self.path:
            time.sleep(20)
            return
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


class TestSource:
    def test_a_signed_qemu_is_built(
        self, client: docker.DockerClient, upstream: Upstream, tmp_path: Path, forget: Callable[[str], None]
    ) -> None:
        """The tarball is checked, configured, built, and the libraries that it links come along."""
        reference = build(client, directory=tmp_path, progress=Progress(), arguments=upstream.arguments())
        forget(reference)
        assert DockerEngine(client, reference).qemu_version("qemu-system-aarch64").numbers == (99, 0, 1)
        log = (tmp_path / "pidoc-vm.log").read_text()
        assert "configured with --prefix=/usr/local --target-list=aarch64-softmmu,arm-softmmu" in log
        packages = client.containers.run(reference, ["/usr/local/share/pidoc/packages"], entrypoint="cat", remove=True)
        assert b"libgcrypt20" in packages.split()
        missing = client.containers.run(
            reference, ["-c", "command -v gpg /usr/bin/qemu-img || true"], entrypoint="sh", remove=True
        )
        assert missing == b""

    def test_a_qemu_signed_by_somebody_else_is_not_built(
        self, client: docker.DockerClient, upstream: Upstream, tmp_path: Path
    ) -> None:
        """A good signature of another key, even one that was fetched beside the right one, fails the build."""
        arguments = upstream.arguments(QEMU_SIGNING_KEY=upstream.other)
        with pytest.raises(ImageError) as caught:
            build(client, directory=tmp_path, progress=Progress(), arguments=arguments)
        assert f"qemu-99.0.1.tar.xz is not signed by {upstream.other}" in caught.value.evidence

    def test_a_tampered_qemu_is_not_built(
        self, client: docker.DockerClient, upstream: Upstream, tmp_path: Path
    ) -> None:
        """One flipped byte in the tarball fails the build before anything in it is unpacked."""
        bad = upstream.folder / "bad"
        bad.mkdir()
        for name in ("qemu-99.0.1.tar.xz", "qemu-99.0.1.tar.xz.sig"):
            shutil.copy(upstream.folder / name, bad)
        content = bytearray((bad / "qemu-99.0.1.tar.xz").read_bytes())
        content[-40] ^= 1
        (bad / "qemu-99.0.1.tar.xz").write_bytes(content)
        arguments = upstream.arguments(QEMU_SOURCE_URL=f"{upstream.url}/bad")
        with pytest.raises(ImageError, match="docker build failed for the container image") as caught:
            build(client, directory=tmp_path, progress=Progress(), arguments=arguments)
        assert "BAD signature" in caught.value.evidence

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_an_interrupted_build_ends_and_can_be_repeated(
        self, client: docker.DockerClient, upstream: Upstream, tmp_path: Path, number: int
    ) -> None:
        """Ctrl-C or SIGKILL in the middle: the daemon gives up, no container stays, and the lock is free."""
        arguments = upstream.arguments(
            QEMU_SOURCE_URL=f"{upstream.url}/hang", QEMU_BUILD_PACKAGES=f"make sed={number}*"
        )
        code = (
            "import sys; from pathlib import Path; from pytest_pidoc.containers.daemon import connect;"
            "from pytest_pidoc.containers.build import build; from pytest_pidoc.values.progress import Progress;"
            f"build(connect(), directory=Path({str(tmp_path)!r}), progress=Progress(), arguments={arguments!r})"
        )
        running = {"label": [f"{IMAGE_LABEL}=qemu-source"]}
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 60
            while not client.api.containers(filters=running):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(number)
            process.wait(timeout=10)
        finally:
            process.kill()
            process.wait()
        end = time.monotonic() + 15
        while client.api.containers(all=True, filters=running):
            assert time.monotonic() < end, "the daemon goes on building"
            time.sleep(0.1)
        build(client, directory=tmp_path, progress=Progress())
        for image in stored(client):
            assert image.names or discard(client, image)

"""Downloads: whole, checked, gone on with; whatever a server does."""

import hashlib
import os
import re
import resource
import subprocess
import sys
import threading

import pytest
from file_server import cut, drip, file_server, redirect, stall, status
from support import Steps

from pytest_pidoc.errors import ChecksumMismatch, DownloadError, ImageError, PidocError
from pytest_pidoc.host.locks import locked
from pytest_pidoc.images.fetch import download
from pytest_pidoc.images.fetch.download import Patience, fetch, shown
from pytest_pidoc.values.progress import Progress

CONTENT = os.urandom(3 << 20)
QUICK = Patience(connect=5, read=0.3, attempts=3, pause=0)


@pytest.fixture
def server():
    with file_server() as server:
        yield server


@pytest.fixture
def get(tmp_path):
    """Return a download into a directory of its own that does not wait between attempts."""

    def get(url, sha256, *, patience=QUICK, progress=None):
        return fetch(
            url,
            sha256,
            directory=tmp_path / "downloads",
            progress=progress or Progress(),
            patience=patience,
            sleep=lambda seconds: None,
        )

    return get


def left(tmp_path):
    """Return what is in the directory beside locks and stamps, by the end of the name."""
    names = (path.name for path in (tmp_path / "downloads").iterdir())
    notes = ("lock", "holder", "stamp")
    return sorted(re.sub("^[0-9a-f]{64}", "", name) for name in names if not name.endswith(notes))


def test_a_file_arrives_and_is_not_fetched_twice(server, get, tmp_path):
    """The second call asks nobody."""
    url, sha256 = server.add("/a.img.xz", CONTENT)

    path = get(url, sha256)

    assert path.read_bytes() == CONTENT
    assert get(url, sha256) == path
    assert len(server.requests) == 1
    assert left(tmp_path) == [""]


@pytest.mark.parametrize("at", [0, 1, 2_000_000])
def test_a_download_that_is_cut_off_goes_on_where_it_was(server, get, at):
    """What has arrived is not asked for again, and the server is told which file it is of."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [cut(at)]

    assert get(url, sha256).read_bytes() == CONTENT

    again = server.requests[1]
    assert again.get("Range") == (f"bytes={at}-" if at else None)
    assert ("If-Range" in again) == bool(at)


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, get, tmp_path):
    """A whole evening without a network costs nothing of what is there."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [cut(2_000_000), status(503), status(503), status(503)]
    with pytest.raises(DownloadError, match=r"(?s)503.*resumes at 2 MB"):
        get(url, sha256)
    assert left(tmp_path) == [".json", ".part"]

    assert get(url, sha256).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=2000000-"
    assert left(tmp_path) == [""]


def test_a_server_that_ignores_ranges_starts_anew(server, get):
    """An answer 200 is the whole file, and replaces what is there."""
    url, sha256 = server.add("/a", CONTENT)
    server.ranges = False
    server.faults = [cut(2_000_000)]

    assert get(url, sha256).read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_fetched_whole(server, get, tmp_path):
    """Half of one file and half of another would be neither."""
    url, _ = server.add("/a", bytes(len(CONTENT)))
    wanted = hashlib.sha256(CONTENT).hexdigest()
    server.faults = [cut(2_000_000), status(404)]
    with pytest.raises(DownloadError):
        get(url, wanted)
    server.add("/a", CONTENT)

    assert get(url, wanted).read_bytes() == CONTENT
    assert server.requests[-1]["If-Range"]


def test_what_was_left_is_not_trusted(server, get, tmp_path):
    """A part of something else, and a server that cannot tell: the checksum does, and it is fetched anew."""
    url, sha256 = server.add("/a", CONTENT)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{sha256}.part").write_bytes(b"x" * 1000)

    assert get(url, sha256).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_what_was_whole_when_its_owner_was_killed_is_taken(server, get, tmp_path):
    """Nothing is asked for: only the name was missing."""
    url, sha256 = server.add("/a", CONTENT)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{sha256}.part").write_bytes(CONTENT)

    assert get(url, sha256).read_bytes() == CONTENT
    assert server.requests == []


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, get, tmp_path):
    """The server answers 416, and the download starts anew."""
    url, sha256 = server.add("/a", CONTENT)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{sha256}.part").write_bytes(CONTENT + b"x")

    assert get(url, sha256).read_bytes() == CONTENT


def test_a_wrong_checksum_is_told_and_nothing_is_kept(server, get, tmp_path):
    """Both hashes are named; a later call does not find the wrong file."""
    url, sha256 = server.add("/a", CONTENT)

    with pytest.raises(ChecksumMismatch, match=f"(?s){sha256}.*{'0' * 64}"):
        get(url, "0" * 64)

    assert left(tmp_path) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_url_that_is_gone_is_told_at_once(server, get, code):
    """No second attempt: it would be answered alike."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [status(code)]

    with pytest.raises(DownloadError, match=f"the server answered {code}"):
        get(url, sha256)

    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, get):
    """503 and the like pass."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [status(503), status(429)]

    assert get(url, sha256).read_bytes() == CONTENT


def test_a_server_that_stays_silent_is_given_up(server, get):
    """After as many attempts as there is patience for, each bounded."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [stall(0.5)] * 3

    with pytest.raises(DownloadError, match="timed out"):
        get(url, sha256)

    assert len(server.requests) == 3


def test_a_server_that_drips_is_given_up(server, get):
    """A byte now and then is no silence, and would take weeks."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [drip(0.01)] * 3

    with pytest.raises(DownloadError, match="bytes per second"):
        get(url, sha256)


def test_breaks_that_still_bring_something_are_no_reason_to_give_up(server, get):
    """Four breaks with three attempts: each brought more than a megabyte, or was followed by one that did."""
    content = os.urandom(6 << 20)
    url, sha256 = server.add("/a", content)
    server.ranges = True

    def cut_further(handler, whole):
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        handler.send_header("Content-Length", str(len(whole) - start))
        handler.end_headers()
        handler.wfile.write(whole[start : start + 1_200_000])
        handler.close_connection = True
        return True

    server.faults = [cut_further] * 4

    assert get(url, sha256).read_bytes() == content


def test_nobody_listens(get):
    """A host that is down is named, and why it cannot be reached."""
    with file_server() as server:
        url, sha256 = server.add("/a", CONTENT)

    with pytest.raises(DownloadError, match=r"(?s)Downloading .* failed: .*refused.*check that the server is up"):
        get(url, sha256)


def test_redirects_are_followed(server, get):
    """As publishers use them for their mirrors."""
    url, _ = server.add("/a", CONTENT)
    target, sha256 = server.add("/mirror/a", CONTENT)
    server.faults = [redirect(target)]

    assert get(url, sha256).read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["ftp://example.org/a", "file:///etc/passwd"])
def test_a_redirect_to_elsewhere_is_refused(server, get, target):
    """A server cannot make this machine read its own files."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [redirect(target)]

    with pytest.raises(DownloadError, match="less secure"):
        get(url, sha256)


def test_a_redirect_from_https_to_http_is_refused(tmp_path):
    """What was asked for in secret is not told to everybody."""
    one = download._Download("https://example.org/a", "0" * 64, tmp_path / "a", Progress(), QUICK)

    with pytest.raises(DownloadError, match="less secure"):
        one.next_url("https://example.org/a", "http://example.org/b")
    assert one.next_url("https://example.org/a", "/b") == "https://example.org/b"


def test_redirects_in_a_circle_end(server, get):
    """They are counted."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [redirect("/a")] * 20

    with pytest.raises(DownloadError, match="was redirected more than 10 times"):
        get(url, sha256)


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(server, get):
    """The size that the server names is compared with the room there is."""
    url, sha256 = server.add("/a", CONTENT)

    def huge(handler, content):
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 60))
        handler.end_headers()
        return True

    server.faults = [huge]

    with pytest.raises(DownloadError, match=r"(?s)MB of free disk space, but .* has .* MB.*--pidoc-cache-dir"):
        get(url, sha256)


FULL = """
import resource, signal, sys
from pathlib import Path
from pytest_pidoc.errors import PidocError
from pytest_pidoc.images.fetch.download import fetch
from pytest_pidoc.values.progress import Progress
from pytest_pidoc.host.locks import locked
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    fetch(sys.argv[1], sys.argv[2], directory=Path(sys.argv[3]), progress=Progress())
except PidocError as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_becomes_full_is_named_with_a_remedy(server, tmp_path):
    """The write that fails is no break of the connection: it is not tried again."""
    url, sha256 = server.add("/a", CONTENT)

    done = subprocess.run(
        [sys.executable, "-c", FULL, url, sha256, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("ImageError")
    assert "--pidoc-cache-dir" in done.stdout
    assert len(server.requests) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_directory_that_cannot_be_made_is_an_image_error(tmp_path, server):
    """A file is where the directory should be."""
    (tmp_path / "downloads").write_text("")
    url, sha256 = server.add("/a", CONTENT)

    with pytest.raises(ImageError, match="--pidoc-cache-dir"):
        fetch(url, sha256, directory=tmp_path / "downloads", progress=Progress())


def test_two_that_want_the_same_file_fetch_it_once(server, get):
    """The second one waits for the first."""
    url, sha256 = server.add("/a", CONTENT)
    server.faults = [lambda handler, content: stall(0.1)(handler, content) and False]
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(url, sha256))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 2
    assert len(server.requests) == 1


def test_progress_tells_what_comes_from_where(server, get, monkeypatch):
    """Somebody who waits for half a gigabyte sees how far it is; a password in the URL he does not see."""
    url, sha256 = server.add("/a.img.xz", CONTENT)
    steps = Steps()
    monkeypatch.setattr(download, "TELL_EVERY", -1.0)

    get(url.replace("http://", "http://user:secret@") + "?token=secret", sha256, progress=steps)

    assert steps.texts[0] == f"downloading {url}"
    assert any(text.startswith("downloaded ") and text.endswith(" of 3 MB") for text in steps.texts)
    assert "secret" not in " ".join(steps.texts)


def test_a_url_is_shown_without_its_secrets():
    """Logs and manifests are read by others."""
    assert shown("https://me:word@host:8443/a.zip?sig=1#frag") == "https://host:8443/a.zip"
    assert shown("/a/path") == "/a/path"


def test_downloads_are_discarded_but_not_while_they_are_under_way(server, get, tmp_path):
    """Also one that was never finished; what is only asked for stays."""
    url, sha256 = server.add("/a", CONTENT)
    path = get(url, sha256)
    half, busy = (path.with_name(f"{digit * 64}.part") for digit in "12")
    half.write_bytes(b"half")
    busy.write_bytes(b"half")
    assert download.kept(path.parent) == sorted([half, busy, path])
    assert download.kept(tmp_path / "nowhere") == []

    for each in (half, path):
        download.discard(each, dry_run=True)
        assert each.exists()
        download.discard(each)
    with locked(busy.with_suffix(".lock"), purpose="downloading", timeout=0), pytest.raises(PidocError):
        download.discard(busy)
    assert left(tmp_path) == [".part"]


def test_a_damaged_download_is_downloaded_anew(server, get):
    """What was whole once may not be any more: it is looked at before each use, and hashed if it looks different."""
    url, sha256 = server.add("/a", CONTENT)
    path = get(url, sha256)
    assert download.is_whole(path)
    path.write_bytes(bytes(len(CONTENT)))
    assert not download.is_whole(path)
    steps = Steps()

    assert get(url, sha256, progress=steps).read_bytes() == CONTENT
    assert any("is damaged" in text for text in steps.texts)


def test_damage_without_a_trace_is_found_by_a_thorough_look(server, get):
    """One byte, and size, time and inode as before."""
    url, sha256 = server.add("/a", CONTENT)
    path = get(url, sha256)
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(5000)
        byte = stream.read(1)[0]
        stream.seek(5000)
        stream.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert download.is_whole(path)
    assert not download.is_whole(path, thorough=True)

"""A real HTTP server of files, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer:
    """Serves bytes by path.

    Attributes
    ----------
    files
        What is served, by path.
    faults
        What goes wrong with the next requests, one after the other; then all goes well. Each is called with the
        request's handler and the content, and tells whether it has answered itself.
    requests
        The headers of every request so far.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.faults: list[Callable[[Any, bytes], bool]] = []
        self.requests: list[dict[str, str]] = []
        self.ranges = True

    def url(self, path: str) -> str:
        host, port = self.address
        return f"http://{host}:{port}{path}"

    def add(self, path: str, content: bytes) -> tuple[str, str]:
        """Serve *content* at *path*; return its URL and SHA-256."""
        self.files[path] = content
        return self.url(path), hashlib.sha256(content).hexdigest()


def status(code: int) -> Callable[[Any, bytes], bool]:
    """Refuse with a status."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.send_error(code)
        return True

    return fault


def cut(after: int) -> Callable[[Any, bytes], bool]:
    """Promise everything, and close the connection after so many bytes."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:8]}"')
        handler.end_headers()
        handler.wfile.write(content[:after])
        handler.wfile.flush()
        handler.close_connection = True
        return True

    return fault


def stall(seconds: float) -> Callable[[Any, bytes], bool]:
    """Say nothing for a while."""

    def fault(handler: Any, content: bytes) -> bool:
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def drip(interval: float) -> Callable[[Any, bytes], bool]:
    """Send one byte at a time."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for number in range(len(content)):
                handler.wfile.write(content[number : number + 1])
                handler.wfile.flush()
                time.sleep(interval)
        handler.close_connection = True
        return True

    return fault


def redirect(target: str) -> Callable[[Any, bytes], bool]:
    """Send the client elsewhere."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """Serve on a port of 127.0.0.1 that the OS chooses, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append(dict(self.headers))
            content = served.files.get(self.path.partition("?")[0])
            if content is None:
                return self.send_error(404)
            if served.faults and served.faults.pop(0)(self, content):
                return None
            etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            start = 0
            wanted = self.headers.get("Range", "")
            if served.ranges and wanted and self.headers.get("If-Range", etag) == etag:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = FileServer(server.server_address[:2])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

"""The connection to the Docker daemon: the one edge where the docker SDK's exceptions become ours."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from pytest_pidoc.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

__all__ = ["GUEST_LABEL", "IMAGE_LABEL", "NODE_LABEL", "PROCESS_LABEL", "SESSION_LABEL", "connect", "daemon_errors"]

#: Every container carries the name of its cluster and of its node in these labels, and which process made it.
SESSION_LABEL = "org.pytest-pidoc.session"
NODE_LABEL = "org.pytest-pidoc.node"
PROCESS_LABEL = "org.pytest-pidoc.process"

#: Every container image says what it is (``pidoc-vm``, ``pidoc``, ``base``) and which guest it holds.
IMAGE_LABEL = "org.pytest-pidoc.image"
GUEST_LABEL = "org.pytest-pidoc.guest"

OPERATION_TIMEOUT = 60  # seconds to wait at most for the daemon during one request, after its first answer


def connect(timeout: float = 2.0) -> docker.DockerClient:
    """Connect to the daemon that ``DOCKER_HOST`` or the Docker context names; close the client after use.

    Parameters
    ----------
    timeout
        Seconds to wait at most for the daemon's first answer.

    Raises
    ------
    EngineUnavailable
        No daemon answers in that time; the message says why.
    """
    import docker.errors  # noqa: F401 # a slow import is not the daemon's fault

    # The SDK's own timeout is for each read of a socket, and does not hold for name look-ups or ssh:// at
    # all. Only a second thread limits the whole.
    outcome: list[docker.DockerClient | EngineUnavailable] = []
    lock = threading.Lock()
    given_up = False

    def attempt() -> None:
        found: docker.DockerClient | EngineUnavailable
        try:
            found = _open(timeout)
        except EngineUnavailable as error:
            found = error
        with lock:
            if not given_up:
                outcome.append(found)
            elif not isinstance(found, EngineUnavailable):
                found.close()

    thread = threading.Thread(target=attempt, name="pidoc-docker-connect", daemon=True)
    thread.start()
    thread.join(timeout + 0.5)  # the SDK's own timeout gives the better message: let it come first
    with lock:
        given_up = True
    if not outcome:
        raise _silent(timeout)
    if isinstance(outcome[0], EngineUnavailable):
        raise outcome[0]
    return outcome[0]


@contextlib.contextmanager
def daemon_errors(task: str) -> Iterator[None]:
    """Turn whatever the docker SDK raises inside into `EngineUnavailable`: "Docker could not <task>: ..."."""
    import docker.errors
    import requests
    import urllib3

    try:
        yield
    except docker.errors.APIError as error:
        reason = error.explanation or str(error)
        raise EngineUnavailable(f"Docker could not {task}: {str(reason).strip().rstrip('.')}.") from error
    except (
        docker.errors.DockerException,
        docker.errors.StreamParseError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise EngineUnavailable(
            f"Docker could not {task}: {error}.",
            tip="run `docker version` to see whether the daemon still answers",
        ) from error


def _open(timeout: float) -> docker.DockerClient:
    import docker
    import docker.errors
    import requests
    from docker.constants import MINIMUM_DOCKER_API_VERSION as MINIMUM

    try:
        # A client that asks for the version while it is made leaves its socket open if that fails: ask with one
        # that does not, and can be closed.
        with contextlib.closing(docker.from_env(timeout=timeout, version=MINIMUM)) as probe:  # type: ignore[arg-type]
            _touch(getattr(probe.api.get_adapter(probe.api.base_url), "socket_path", None), timeout)
            if "ApiVersion" not in probe.version(api_version=False):
                raise ValueError("it has no API version")
        return docker.from_env(timeout=OPERATION_TIMEOUT)
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
        causes = list(_causes(error))
        if any(isinstance(cause, (TimeoutError, requests.Timeout)) for cause in causes):
            raise _silent(timeout) from error
        if any(isinstance(cause, PermissionError) for cause in causes):
            raise EngineUnavailable(
                f"Permission denied for the Docker daemon at {_address()}.",
                tip="add your user to the group docker and log in again, or use rootless Docker",
            ) from error
        if any(isinstance(cause, (FileNotFoundError, ConnectionRefusedError)) for cause in causes):
            raise EngineUnavailable(
                f"No Docker daemon listens at {_address()}.",
                tip="start Docker (apt-get install docker.io; systemctl start docker), or set DOCKER_HOST",
            ) from error
        raise EngineUnavailable(
            f"The server at {_address()} does not answer like a Docker daemon.",
            evidence=str(error),
            tip="set DOCKER_HOST to a Docker daemon",
        ) from error


def _touch(path: str | None, timeout: float) -> None:
    """Connect to the daemon's unix socket, if it has one: the SDK leaves a socket open that cannot connect."""
    if path is not None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(path)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and all that led to it: the SDK wraps what requests wraps of what urllib3 wraps."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [current.__cause__, current.__context__, *current.args]


def _silent(timeout: float) -> EngineUnavailable:
    return EngineUnavailable(
        f"The Docker daemon at {_address()} did not answer within {timeout:g} s.",
        tip="restart the daemon if `docker version` does not answer either",
    )


def _address() -> str:
    return os.environ.get("DOCKER_HOST") or "its default socket"

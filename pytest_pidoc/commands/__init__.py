"""What each command of ``pidoc`` does."""

from pytest_pidoc.commands.clusters import console, down, ps, ssh, up
from pytest_pidoc.commands.host import demo, doctor, models
from pytest_pidoc.commands.images import build, images, prune, pull

__all__ = [
    "build",
    "console",
    "demo",
    "doctor",
    "down",
    "images",
    "models",
    "prune",
    "ps",
    "pull",
    "ssh",
    "up",
]

import io

import pytest


@pytest.fixture
def pi(pi):
    """Give the first node, with our configuration on it."""
    pi.put(io.BytesIO(b"port = 80\n"), "app.conf")
    return pi

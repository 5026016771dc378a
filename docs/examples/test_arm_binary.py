import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = "aarch64-linux-gnu-gcc"  # Debian's package gcc-aarch64-linux-gnu
SOURCE = Path(__file__).with_name("hello.c")


@pytest.fixture(scope="session")
def binary(tmp_path_factory):
    """Compile the program for 64-bit ARM."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    path = tmp_path_factory.mktemp("build") / "hello"
    subprocess.run([COMPILER, "-static", "-o", path, SOURCE], check=True)
    return path


@pytest.mark.pidoc
def test_it_greets(pi, binary):
    pi.put(binary, "hello")
    assert pi.run("./hello Pi").stdout == "hello Pi\n"


@pytest.mark.pidoc
def test_it_wants_a_name(pi, binary):
    pi.put(binary, "hello")
    result = pi.run("./hello", warn=True)  # warn=True: a failure is a result, not an exception
    assert result.exited == 2
    assert result.stderr == "usage: hello NAME\n"

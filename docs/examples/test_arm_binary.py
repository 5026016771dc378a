import re
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


def test_it_runs_on_a_real_pi_3_or_4(binary):
    """It has no instructions for AES and SHA, which QEMU's processors have and those of the Pis do not."""
    objdump = ["aarch64-linux-gnu-objdump", "--disassemble", "--no-show-raw-insn", binary]
    code = subprocess.run(objdump, check=True, capture_output=True, text=True).stdout
    assert not re.findall(r"\t(?:aes|sha1|sha256)\w+|\tpmull2?\tv\d+\.1q", code)

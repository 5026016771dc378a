"""Fail when the checksum becomes slower: in instructions on a 64-bit Pi, in the guest's time on an ARMv6 one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("checksum.c")
COMPILERS = {
    "pi3-virt": ["aarch64-linux-gnu-gcc"],
    "pi1": ["arm-linux-gnueabihf-gcc", "-march=armv6", "-marm", "-mfloat-abi=soft"],
}


@pytest.fixture
def program(pi, tmp_path):
    """Compile the program for the node and copy it there; FLAGS has additional options for the compiler."""
    compiler = COMPILERS[pi.model]
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    flags = ["-O2", "-static", "-nostdlib", "-ffreestanding", *os.environ.get("FLAGS", "").split()]
    subprocess.run([*compiler, *flags, "-o", tmp_path / "checksum", SOURCE], check=True)
    pi.put(tmp_path / "checksum", "checksum")
    return "./checksum"


@pytest.mark.pidoc(model="pi3-virt")
@pytest.mark.pidoc_benchmark(fail="instructions:0.5%")
def test_checksum(pi, program, pi_benchmark):
    pi_benchmark(pi, program)


@pytest.mark.pidoc(model="pi1")
@pytest.mark.pidoc_benchmark(metric="guest_time", fail="guest_time:1%")
def test_checksum_on_armv6(pi, program, pi_benchmark):
    pi_benchmark(pi, program)

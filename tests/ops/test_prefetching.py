"""That the compiled kernels have memory fetched ahead: GCC may take that out, and no result would tell."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec

import pytest

# One of each kernel that fetches ahead, with the prefetches of its source that a float version has at the least.
KERNELS = {
    "scan_forward<float>": 2,  # of what is read, in a loop, and of what is written
    "scan_backward<float>": 2,
    "conv_backward<float>": 3,
    "pack_strip<float>": 1,
    "correlate<7l, float>": 1,
}


@pytest.fixture(scope="module")
def prefetches() -> Counter[str]:
    """How many instructions that fetch ahead each function of the extension has."""
    if platform.machine() != "x86_64" or shutil.which("objdump") is None:
        pytest.skip("needs objdump, and an x86 processor, whose instructions it looks for")
    extension = find_spec("cora._C")
    if extension is None or extension.origin is None:
        pytest.skip("the extension is not built")
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", extension.origin]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "scan_forward" not in listing:
        pytest.skip("the extension has no symbols: it was stripped")
    found: Counter[str] = Counter()
    function = ""
    for line in listing.splitlines():
        if heading := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = heading[1]
        elif "\tprefetch" in line:
            found[function] += 1
    return found


@pytest.mark.parametrize("instructions", ["avx2", "avx512"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_has_memory_fetched_ahead(prefetches: Counter[str], kernel: str, instructions: str) -> None:
    count = sum(number for name, number in prefetches.items() if f"cora::{instructions}::{kernel}(" in name)
    assert count >= KERNELS[kernel]

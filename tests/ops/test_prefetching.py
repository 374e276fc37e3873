"""That the compiled kernels have memory fetched ahead: GCC may take that out, and no result would tell."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec

import pytest

from cora.ops.extension import extension_problem

pytestmark = [
    pytest.mark.skipif(extension_problem() is not None, reason=str(extension_problem())),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="it looks for instructions of x86 processors"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not on the PATH"),
]

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
    extension = find_spec("cora._C")
    assert extension is not None
    assert extension.origin is not None
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", extension.origin]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "scan_forward" in listing, "the extension has no symbols: it was stripped"
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

"""Large buffers of the server's process go back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A buffer of 16 MiB is freed, after which glibc takes smaller ones from its heap; then where one of 4 MiB comes from.
PROGRAM = """
import ctypes
from cora.serving.memory import return_large_buffers
return_large_buffers()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(2**24))
IS_MMAPPED = 2  # in the size that lies before a buffer
print(bool(ctypes.c_size_t.from_address(libc.malloc(2**22) - 8).value & IS_MMAPPED))
"""


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="not glibc")
@pytest.mark.parametrize(("outside", "mapped"), [(None, "True"), (str(2**25), "False")])
def test_a_large_buffer_is_a_mapping_of_its_own(outside: str | None, mapped: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_MMAP_THRESHOLD_"}
    if outside is not None:
        # What the user has set stays.
        environment["MALLOC_MMAP_THRESHOLD_"] = outside
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mapped

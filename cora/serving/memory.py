"""How the C library keeps memory that the server is done with."""

from __future__ import annotations

import ctypes
import logging
import os

__all__ = ["return_large_buffers"]

logger = logging.getLogger(__name__)

# A body of a request, its base64, the file in it and its pixels are all larger; nearly everything else is smaller.
_LARGE_BYTES = 2**20
# What <malloc.h> calls M_MMAP_THRESHOLD, and what sets it from outside.
_MMAP_THRESHOLD = -3
_VARIABLE = "MALLOC_MMAP_THRESHOLD_"


def return_large_buffers() -> None:
    """Let the C library give every large buffer back to the system when it is freed.

    glibc does so from 128 KiB on, but only until the first of them is freed: from then on it takes buffers of up to
    32 MiB from the heaps of its threads, where they leave holes between small pieces that live on. With hundreds of
    requests of several MB each, of all sizes, this process grows so for minutes. A threshold that is set stays.

    The engine's process, whose layers want the same memory again and again, is left as it is.
    """
    if _VARIABLE in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_MMAP_THRESHOLD, _LARGE_BYTES):
        logger.info("this C library decides by itself when it gives memory back to the system")

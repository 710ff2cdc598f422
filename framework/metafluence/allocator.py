"""What the C library does with memory that torch frees."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for reuse. Returns whether the C library supports this.

    A convolutional network's graphs are made anew at every step. Given back to the system and fetched again, their
    memory takes longer to come than their numbers take to compute (conv4 on a processor: 1.5 to 3.5 times as long).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    settings = ((_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28), (_MMAP_THRESHOLD, 2**25))
    return all(mallopt(name, value) for name, value in settings)

"""What the C library does with the memory that a step gives back."""

import contextlib
import ctypes

# malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD (-1: never)
KEEP = ((-8, 1), (-4, 0), (-1, -1))
DEFAULT = ((-8, 0), (-4, 65536), (-1, 128 * 1024))


def keep_freed_memory(keep: bool = True) -> None:
    """Lets glibc reuse a step's buffers instead of returning them to the kernel.

    XLA allocates its temporaries anew each step; fetching and zeroing their pages took
    a fifth of the tiny preset's CPU time. Elsewhere than on glibc nothing happens.

    Args:
      keep: False sets back what True has set.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in KEEP if keep else DEFAULT:
            mallopt(option, value)

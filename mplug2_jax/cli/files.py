"""Files named on a command line, read ahead; those that cannot be are reported."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mplug2_jax.data.video import Media


def readable(
    command: str, read: Callable[[str], "Media"], files: Sequence[str], size: int
) -> Iterator[tuple[list[tuple[str, "Media"]], int]]:
    """Windows of `size` files: those that can be read, and how many cannot.

    Args:
      command: named on stderr with the error of each that cannot.
    """
    from mplug2_jax.data.prefetch import batched, read_ahead
    from mplug2_jax.data.video import Media

    with read_ahead(read, files, ahead=2 * size) as results:
        for window in batched(results, size):
            usable = [(file, m) for file, m in window if isinstance(m, Media)]
            for _, error in window:
                if not isinstance(error, Media):
                    print(f"mplug2 {command}: error: {error}", file=sys.stderr)
            yield usable, len(window) - len(usable)

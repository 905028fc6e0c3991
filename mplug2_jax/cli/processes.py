"""Commands that several processes run together: each does its share, one speaks."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Joins the other processes, if there are any; of all the first alone prints.

    Files, too, are the first one's to write (`is_first`).

    Raises:
      ConnectionError: another process is gone, or was not there in time.
    """
    from mplug2_jax.sharding.distributed import ending_together, initialize

    cluster = initialize()
    if cluster.kind == "single":
        yield
        return
    if threading.current_thread() is threading.main_thread():
        # JAX has taken it, for those that ask whether it has come, as training does.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_together())
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def is_first() -> bool:
    """Whether this process prints and writes for all."""
    import jax

    return jax.process_index() == 0

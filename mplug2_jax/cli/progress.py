"""How far a command is with its work."""

import time

from mplug2_jax.cli.processes import is_first


class Progress:
    """Rewrites one line with items done, rate and time left; on files, few lines."""

    def __init__(self, stream, what: str = "media", clock=time.monotonic):
        self.stream, self.what, self.clock = stream, what, clock
        self.start = self.shown = clock()
        self.every, self.end = (0.5, "\r") if stream.isatty() else (30.0, "\n")

    def __call__(self, done: int, total: int) -> None:
        now = self.clock()
        if (done < total and now - self.shown < self.every) or not is_first():
            return
        self.shown = now
        rate = done / max(now - self.start, 1e-9)
        left = _duration((total - done) / rate) if rate else "?"
        line = f"{done}/{total} {self.what}, {rate:.1f}/s, {left} left"
        end = "\n" if done == total else self.end
        print(f"{line:50}", end=end, file=self.stream, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

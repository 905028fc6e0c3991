"""Stands in for `python -m mplug2_jax train ...`: joins the others and reports.

Writes WORKDIR/memberI with the number of processes, their indices as the devices see
them, the platform asked for, and the arguments; then WORKDIR/final, as a finished run
does.
"""

import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mplug2_jax.sharding.distributed import initialize


def main(arguments: list[str]) -> None:
    workdir = Path(arguments[arguments.index("--workdir") + 1])
    workdir.mkdir(parents=True, exist_ok=True)
    cluster = initialize()
    indices = multihost_utils.process_allgather(np.array([jax.process_index()]))
    seen = {
        "kind": cluster.kind,
        "count": jax.process_count(),
        "indices": sorted(np.ravel(indices).tolist()),
        "platform": os.environ["LAUNCHED_ON"],
        "arguments": arguments,
    }
    (workdir / f"member{jax.process_index()}").write_text(json.dumps(seen))
    print(f"step 1 of 1 on process {jax.process_index()}", flush=True)
    (workdir / "final").mkdir(exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])

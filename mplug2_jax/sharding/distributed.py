"""Joins the processes of a run: the one place that knows how they were started.

By hand or by a launcher (JobSet with GPUs): the variables MPLUG2_COORDINATOR,
MPLUG2_PROCESSES and MPLUG2_PROCESS_INDEX. Under Slurm's `srun`: from Slurm's variables,
one process per GPU. On TPU VMs and GKE's TPU nodes: automatic. Otherwise one process.
"""

import atexit
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import jax

from mplug2_jax.exits import LOST, exit_status

BY_HAND = ("MPLUG2_COORDINATOR", "MPLUG2_PROCESSES", "MPLUG2_PROCESS_INDEX")
HEARTBEAT = "MPLUG2_HEARTBEAT_SECONDS"  # a silent process is dead after so long
JOIN = "MPLUG2_JOIN_SECONDS"  # a process waits so long for the others
DEFAULTS = {HEARTBEAT: 100, JOIN: 300}
# What `srun` sets for each task; `salloc` alone sets only the first.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
# What the networks' errors have in common when another process is gone.
_GONE = ("gloo", "nccl", "connection", "peer", "unavailable", "heartbeat")
_LATER = 60  # seconds, so much longer JAX would wait for the others
PATIENCE = 24 * 3600  # seconds; that a process is gone is noticed much earlier
_MEETINGS = itertools.count()
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How this process belongs to others; None where JAX finds it out."""

    kind: Literal["single", "by hand", "slurm", "tpu"] = "single"
    coordinator: str | None = None
    count: int | None = 1
    index: int | None = 0


def detect(environ: Mapping[str, str] = os.environ) -> Cluster:
    """How this process was started.

    Raises:
      ValueError: the variables are incomplete or make no sense.
    """
    if any(environ.get(name) for name in BY_HAND):
        return _by_hand(environ)
    if all(name in environ for name in _SLURM) and _number(environ, "SLURM_NTASKS") > 1:
        count, index = _number(environ, "SLURM_NTASKS"), environ["SLURM_PROCID"]
        return Cluster("slurm", None, count, int(index))
    return Cluster("tpu", None, None, None) if _has_tpu(environ) else Cluster()


def initialize(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Joins the other processes, and says once which one this is.

    To be called before any device is touched; called again it does nothing.

    Raises:
      ValueError: the variables are incomplete or make no sense.
      ConnectionError: the others were not there in time, or process 0 cannot listen.
    """
    cluster = detect(environ)
    heartbeat, join = (_limit(environ, name) for name in (HEARTBEAT, JOIN))
    if cluster.kind == "single" or jax.distributed.is_initialized():
        return cluster
    _join(cluster, join, heartbeat)
    index, count = jax.process_index(), jax.process_count()
    print(
        f"process {index} of {count} ({cluster.kind}): {jax.local_device_count()} of "
        f"{jax.device_count()} devices, heartbeat limit {heartbeat} s",
        file=sys.stderr,
        flush=True,
    )
    if jax.default_backend() == "cpu":
        # Only the first process finds its compiled programs again (on a CPU each has a
        # key of its own), and would run ahead; Gloo gives the others half a minute.
        jax.config.update("jax_enable_compilation_cache", False)
    return dataclasses.replace(cluster, count=count, index=index)


def meet(what: str) -> None:
    """Waits for the other processes, longer than a collective or the exit would.

    Args:
      what: for messages.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        client = multihost.get_jax_distributed_client()
        client.wait_at_barrier(f"{what} {next(_MEETINGS)}", PATIENCE * 1000)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """An error, or exit, within ends this process once it is told, and so the others.

    An orderly exit would wait for them, and they for it in the middle of a step; of one
    that is gone they hear within the heartbeat limit. If that is by the heartbeat and
    not by a collective, JAX itself names the silent process and ends this one.

    Raises:
      ConnectionError: another process is gone.
    """
    try:
        yield
    except SystemExit as wanted:
        if jax.process_count() > 1 and isinstance(wanted.code, int):
            atexit.register(_leave, wanted.code)
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        lost = lost and any(word in reason.lower() for word in _GONE)
        atexit.register(_leave, LOST if lost else exit_status(error))
        if not lost:
            raise
        raise ConnectionError(
            f"Process {jax.process_index()} of {jax.process_count()} lost another one "
            f"({reason}); start all of them again, and the run goes on from its last "
            "saved state."
        ) from error


def _join(cluster: Cluster, limit: int, heartbeat: int) -> None:
    """Joins in a thread, as JAX hears no signal meanwhile and aborts at its limit.

    Raises:
      ConnectionError: as `initialize`.
    """
    if cluster.coordinator and cluster.index == 0:
        _check_port(cluster.coordinator)
    joined = concurrent.futures.Future()

    def join() -> None:
        try:
            jax.distributed.initialize(
                cluster.coordinator,
                *((cluster.count, cluster.index) if cluster.kind == "by hand" else ()),
                cluster_detection_method=_method(cluster),
                initialization_timeout=limit + _LATER,
                heartbeat_timeout_seconds=heartbeat,
            )
        except Exception as error:
            joined.set_exception(error)
        else:
            joined.set_result(None)

    threading.Thread(target=join, daemon=True).start()
    try:
        joined.result(limit)
    except TimeoutError:
        atexit.register(_leave, LOST)
        place = "" if cluster.index is None else f" {cluster.index} of {cluster.count}"
        raise ConnectionError(
            f"Process{place} did not meet the others at "
            f"{cluster.coordinator or 'the coordinator'} within {limit} s; start all "
            f"of them, or give them longer by {JOIN}."
        ) from None


def _check_port(coordinator: str) -> None:
    """Process 0 of JAX crashes where it cannot listen, or shares another run's port."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConnectionError(
            f"Process 0 cannot listen on port {port} ({reason}); end what uses it, or "
            f"give all processes another in {BY_HAND[0]}."
        ) from error


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _method(cluster: Cluster) -> str | None:
    """Which of JAX's detections serves; by hand nothing is left to detect."""
    return {"by hand": "deactivate", "slurm": "slurm"}.get(cluster.kind)


def _by_hand(environ: Mapping[str, str]) -> Cluster:
    missing = [name for name in BY_HAND if not environ.get(name)]
    if missing:
        raise ValueError(
            f"{missing[0]} is not set, but others of {', '.join(BY_HAND)} are; set all "
            "three for every process, or none for a single one."
        )
    coordinator = environ[BY_HAND[0]]
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(
            f"{BY_HAND[0]} is {coordinator!r}; expected HOST:PORT of process 0."
        )
    count, index = (_number(environ, name) for name in BY_HAND[1:])
    if count < 1 or index >= count:
        raise ValueError(
            f"{BY_HAND[2]} is {index} and {BY_HAND[1]} {count}; expected an index from "
            "0 to the number of processes less 1."
        )
    # One process needs no others, so that scripts need no case of their own.
    return Cluster("by hand" if count > 1 else "single", coordinator, count, index)


def _has_tpu(environ: Mapping[str, str]) -> bool:
    wanted = environ.get("JAX_PLATFORMS", "tpu")
    present = any(Path(device).exists() for device in _TPU_DEVICES)
    return "tpu" in wanted and present and bool(importlib.util.find_spec("libtpu"))


def _limit(environ: Mapping[str, str], name: str) -> int:
    if name not in environ:
        return DEFAULTS[name]
    if (seconds := _number(environ, name)) < 1:
        raise ValueError(f"{name} is {seconds}; expected at least 1 second.")
    return seconds


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "1" if name.startswith("SLURM") else "")
    if not value.isdigit():
        raise ValueError(f"{name} is {value!r}; expected a whole number.")
    return int(value)

"""Says what a training run would take on chips that are not there.

    mplug2 plan --config configs/pretrain_large.py --topology v5e:16x16
    mplug2 plan --config configs/msrvtt_qa.py --topology v5e:4x4 --mesh fsdp=16
    mplug2 plan --config configs/msrvtt_qa.py --topology v5e:4x4 v6e:2x4 --table

Compiles the real training step for a TPU slice (v4, v5e, v5p, v6e; `2xv5e:16x16` is
two slices) with libtpu, which needs no TPU: pip install -e '.[plan]'. Prints per
device the memory, the arithmetic, what crosses links, and the step's roofline. For
GPUs (a100:N, h100:N, h200:N) memory and traffic are estimates from the step compiled
for simulated CPU devices. Exit status 2 if a plan does not fit, with advice. Data,
vocabulary and checkpoint may be elsewhere (docs/pods.md).
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mplug2_jax.sharding.mesh import MeshConfig

OVERRIDES = True
TOO_LARGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Any value of the configuration is overridden by --config.NAME=VALUE."""
    add = parser.add_argument
    add("--config", required=True, metavar="FILE.py")
    add("--topology", required=True, nargs="+", metavar="CHIP:SHAPE")
    add(
        "--mesh",
        metavar="AXIS=N,...",
        help="axes data, fsdp, tensor, slices instead of the configuration's",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON lines")
    form.add_argument("--table", action="store_true", help="print a Markdown table")


def run(args: argparse.Namespace) -> int:
    """Prints the plans; 2 if one does not fit.

    Raises:
      ValueError: configuration, mesh and topology do not fit each other.
    """
    # The environment comes before JAX, which most modules import.
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"
    from mplug2_jax.planning.topology import Topology

    topologies = [Topology.parse(name) for name in args.topology]
    for topology in sorted(topologies, key=lambda t: t.size):
        topology.prepare()
    return _show(args, topologies)


def _show(args: argparse.Namespace, topologies: list) -> int:
    import jax

    from mplug2_jax.cli.train import read_config
    from mplug2_jax.planning import report
    from mplug2_jax.planning.plan import plan
    from mplug2_jax.training.config import RunConfig

    # A program for chips that are not there cannot be loaded again.
    jax.config.update("jax_enable_compilation_cache", False)
    overrides = args.overrides
    config = RunConfig.from_dict(read_config(args.config, overrides))
    mesh = read_mesh(args.mesh) if args.mesh else None
    if args.table:
        print(report.HEADER)
    status = 0
    for name, topology in zip(args.topology, topologies, strict=True):
        plans = plan(config, topology, mesh)
        if args.json:
            for found in plans:
                print(json.dumps({"config": args.config, **report.as_json(found)}))
        elif args.table:
            for found in plans:
                print(report.table_row(Path(args.config).stem, found), flush=True)
        else:
            sizes = " x ".join(f"{axis} {n}" for axis, n in plans[0].mesh.items())
            print(f"{args.config} on {name}: {topology.size} devices, mesh {sizes}")
            print("\n".join(map(report.describe, plans)))
            print(report.notes(plans))
        bad = [found for found in plans if not found.fits]
        if bad and not (args.json or args.table):
            worst = max(bad, key=lambda found: found.memory.total)
            print(f"{worst.share.name} does not fit; in this order try")
            print("\n".join(f"  {a}" for a in report.advice(config, worst)))
        status = TOO_LARGE if bad else status
    return status


def read_mesh(text: str) -> "MeshConfig":
    """A mesh from `data=4,fsdp=64`.

    Raises:
      ValueError: an unknown axis, or a size that is no number.
    """
    from mplug2_jax.sharding.mesh import MeshConfig

    axes = {name: getattr(MeshConfig(), name) for name in vars(MeshConfig())}
    for item in text.split(","):
        name, _, size = item.partition("=")
        if name not in axes or not size.lstrip("-").isdigit():
            raise ValueError(
                f"--mesh has {item!r}; expected AXIS=N, with an axis of "
                f"{', '.join(axes)}."
            )
        axes[name] = int(size)
    return MeshConfig(**axes)

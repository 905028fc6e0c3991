"""Trains a small model on a synthetic world and shows what it learned.

No downloads, no GPU: 9 to 13 minutes on 2 CPU cores, with --full three times as long.
Writes report.html.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", metavar="DIR", help="(default: by mode)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="train three times longer")
    size.add_argument(
        "--smoke", action="store_true", help="a minute's check that everything runs"
    )


def run(args: argparse.Namespace) -> int:
    from mplug2_jax.quickstart import quickstart

    mode = "full" if args.full else "smoke" if args.smoke else "default"
    folder = "quickstart" if mode == "default" else f"quickstart-{mode}"
    quickstart(args.workdir or folder, mode)
    return 0

"""Makes a data set's official files ready for training: ArrayRecord, with TFDS.

    mplug2 prepare msrvtt_qa --manual-dir downloads/msrvtt --data-dir data
    mplug2 prepare shapes --counts train=6000,test=300 --data-dir data
    mplug2 prepare tfds:glue/sst2 --data-dir data

The last is one of TFDS's own, which it fetches itself (tfds:glue/TASK, tfds:cifar10,
...), or has you fetch (tfds:imagenet2012, with --manual-dir). Image sets mostly need
TensorFlow to be prepared; nothing needs it to be read.

Annotations that are malformed, empty or about something unknown are named in the log
and left out; more than 1 % of a file is an error. Missing media are one, too, in sets
that are not from the web, unless --any-counts leaves them out.

Running the same command again goes on where it stopped. The folder that it prints is
what `--config.train.path` takes; the split is `--config.train.split`. A copy of it in a
bucket (`gcloud storage cp -r`) is read in place, as gs://... (needs gcsfs). Through
Beam, on machines of Dataflow, Spark or Flink:

    mplug2 prepare cc12m --manual-dir /mnt/cc12m --data-dir /mnt/data \\
        --beam-runner DataflowRunner --beam-option project=mine \\
        --beam-option region=us-central1 --beam-option temp_location=gs://mine/temp
"""

import argparse
import re
from typing import Any

NEEDED = "what the manual directory holds:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, its folders, and Beam."""
    from mplug2_jax.data.builders import DATASETS

    files = [f"  {name}: {dataset.files}" for name, dataset in DATASETS.items()]
    parser.epilog = "\n".join([NEEDED, *files])
    add = parser.add_argument
    add("dataset", choices=_Names(DATASETS), metavar="DATASET", help="see below")
    add("--manual-dir", metavar="DIR", help="where you put the official files")
    add("--data-dir", required=True, metavar="DIR", help="of all prepared data sets")
    add(
        "--counts",
        metavar="SPLIT=N,...",
        help="media expected per split (default: as published)",
    )
    add(
        "--any-counts",
        action="store_true",
        help="take what is there, and leave out media that are missing, and splits of "
        "which none is there",
    )
    add(
        "--beam-runner",
        metavar="NAME",
        help="prepare through Apache Beam (extra [beam]): DirectRunner, "
        "DataflowRunner, SparkRunner, FlinkRunner; its machines must see both folders "
        "under the same paths (a shared or mounted file system)",
    )
    add(
        "--beam-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of Beam or its runner without the dashes, such as "
        "project=my-project or flink_master=host:8081; may be repeated",
    )


class _Names(list):
    """Names of data sets; of TFDS's own only TFDS knows which there are."""

    def __contains__(self, name) -> bool:
        from mplug2_jax.data.tfds_sets import is_named

        return is_named(name) or super().__contains__(name)


def run(args: argparse.Namespace) -> int:
    import tensorflow_datasets as tfds

    from mplug2_jax.data.builders import DATASETS
    from mplug2_jax.data.builders.builder import Mplug2Data
    from mplug2_jax.data.files import local_path
    from mplug2_jax.data.tfds_sets import is_named

    if is_named(args.dataset):
        return _tfds(args)
    dataset = DATASETS[args.dataset]
    manual = _manual_dir(args)
    expected = {} if args.any_counts else _counts(args.counts)
    report = None if args.beam_runner else _report
    data = local_path(args.data_dir, "prepare in a local folder, and copy it there.")
    data.mkdir(parents=True, exist_ok=True)
    tfds.disable_progress_bar()
    builder = Mplug2Data(dataset, data, expected, report)
    if builder.data_path.exists():
        print("prepared before; remove the folder to make it anew")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual, **beam(args.beam_runner, args.beam_option)
        )
    )
    counts: Any = builder.info.metadata
    for name, split in builder.info.splits.items():
        found, listed = split.num_examples, counts["counts"][name]["media"]
        of = f" of {listed} listed" if listed not in (None, found) else ""
        print(f"{name}: {found} examples{of}, {split.num_bytes >> 20} MiB")
    print(builder.data_dir)
    return 0


def _tfds(args: argparse.Namespace) -> int:
    """Prepares one of TFDS's own data sets."""
    import tensorflow_datasets as tfds

    from mplug2_jax.data.tfds_sets import prepare

    given = {"--counts": args.counts, "--beam-runner": args.beam_runner}
    if wrong := [name for name, value in given.items() if value]:
        raise ValueError(f"{wrong[0]} is not for {args.dataset}; leave it out.")
    tfds.disable_progress_bar()
    any_counts = {"any_counts": args.any_counts}
    print(prepare(args.dataset, args.data_dir, args.manual_dir, **any_counts))
    return 0


def _manual_dir(args: argparse.Namespace) -> str | None:
    from mplug2_jax.data.builders import DATASETS
    from mplug2_jax.data.files import local_path

    if not DATASETS[args.dataset].manual:
        return None
    if args.manual_dir is None:
        raise ValueError(
            f"{args.dataset} is made of files that you fetch; give their folder with "
            "--manual-dir (`mplug2 prepare --help` lists them)."
        )
    folder = local_path(args.manual_dir, "mount the bucket, or copy the files here.")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(
            f"{folder} is no folder, or is empty; check --manual-dir, where "
            f"{args.dataset} expects: {DATASETS[args.dataset].files}."
        )
    return args.manual_dir


def _counts(text: str | None) -> dict[str, Any] | None:
    """Expected media by split."""
    from mplug2_jax.data.builders.declaration import Counts

    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and re.fullmatch("[0-9]+", number) for name, _, number in pairs):
        raise ValueError(f"--counts is {text!r}; expected SPLIT=NUMBER,...")
    return {name.strip(): Counts(int(number)) for name, _, number in pairs}


def beam(runner: str | None, options: list[str]) -> dict[str, Any]:
    """What TFDS is told about Beam: the runner, and options by its own names."""
    if runner is None:
        if options:
            raise ValueError("--beam-option needs --beam-runner.")
        return {}
    try:
        from apache_beam.options.pipeline_options import (  # type: ignore
            PipelineOptions,
        )
    except ImportError as error:
        raise ValueError(
            "--beam-runner needs Apache Beam; install the extra [beam]: "
            "pip install -e '.[beam]'."
        ) from error
    flags = [f"--{option}" for option in options]
    return {"beam_runner": runner, "beam_options": PipelineOptions(flags=flags)}


def _report(line: str) -> None:
    print(line, flush=True)

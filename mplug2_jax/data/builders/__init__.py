"""Data sets that `mplug2 prepare` knows."""

from mplug2_jax.data.builders import (
    coco,
    image_text,
    msrvtt,
    msvd,
    plain_text,
    synthetic,
    tgif,
    visual_genome,
    webvid,
)
from mplug2_jax.data.builders.declaration import Dataset

SOURCES = (
    *(synthetic, msrvtt, msvd, tgif, webvid),
    *(image_text, coco, visual_genome, plain_text),
)
DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for source in SOURCES for dataset in source.DATASETS
}

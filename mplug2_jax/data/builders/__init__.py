"""Data sets that `mplug2 prepare` knows."""

from mplug2_jax.data.builders import (
    coco,
    didemo,
    flickr30k,
    image_text,
    kinetics,
    lsmdc,
    msrvtt,
    msvd,
    nlvr2,
    nocaps,
    plain_text,
    refcoco,
    snli_ve,
    ssv2,
    synthetic,
    tgif,
    visual_genome,
    vqa_v2,
    webvid,
)
from mplug2_jax.data.builders.declaration import Dataset

SOURCES = (
    *(synthetic, msrvtt, msvd, tgif, didemo, lsmdc, webvid),
    *(image_text, coco, flickr30k, nocaps, visual_genome, vqa_v2, plain_text),
    *(refcoco, snli_ve, nlvr2, kinetics, ssv2),
)
DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for source in SOURCES for dataset in source.DATASETS
}

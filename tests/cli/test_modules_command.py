"""`mplug2 modules`: the composition table with its parameter counts."""

import goldens
import jax
import numpy as np
import pytest

from mplug2_jax.cli.modules import module_sizes
from mplug2_jax.models.config import preset
from mplug2_jax.models.mplug2 import MODULES
from mplug2_jax.tasks.base import COMPOSITION


def test_the_table_of_a_preset(mplug2):
    status, lines, _ = mplug2("modules", "--size", "tiny")
    assert status == 0 and lines[0] == "tiny: parameters in millions"
    header, *rows = lines[1:]
    assert header.split()[: 1 + len(MODULES)] == ["task", *MODULES]
    assert [row.split()[0] for row in rows] == list(COMPOSITION)
    captioning = rows[1].split()
    vision, temporal, universal, text, fusion, decoder, total = captioning[1:8]
    assert (text, fusion) == ("-", "-")
    parts = sum(map(float, (vision, temporal, universal, decoder)))
    assert float(total) == pytest.approx(parts, abs=0.03)


def test_one_row_or_an_error(mplug2):
    _, lines, _ = mplug2("modules", "--size", "tiny", "--task", "retrieval")
    assert len(lines) == 3 and lines[2].startswith("retrieval")
    status, _, error = mplug2("modules", "--task", "retreival")
    assert status == 2 and "There is no task 'retreival'; choose one of" in error


def test_counts_are_those_of_the_official_model():
    """Live tensors of the golden model, without the padding of our word tables."""
    sizes = module_sizes(goldens.config("proj"), MODULES)
    params = goldens.params("proj")
    padding = 128 - 120
    width = goldens.config("proj").text.width
    ours = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    assert sum(sizes.values()) == ours - padding * (2 * width + 1)


def test_large_sees_with_clip():
    """OpenAI's ViT-L/14 has 303 966 208 parameters; we use no output projection."""
    sizes = module_sizes(preset("large"), COMPOSITION["image_classification"].modules)
    assert sizes["vision"] == 303_966_208 - 1024 * 768

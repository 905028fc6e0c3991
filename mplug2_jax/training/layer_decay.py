"""Layer-wise learning rates: the further below the heads, the slower a layer learns.

Fine-tuning of pretrained transformers does so since ELECTRA (arXiv 2003.10555) and BEiT
(arXiv 2106.08254, beit/optim_factory.py in microsoft/unilm); MAE (arXiv 2111.06377) and
VideoMAE (arXiv 2203.12602) follow.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_map_with_path

STACKS = {"vision": "blocks", "text": "layers"}  # layers along the leaves' first axis
BETWEEN = ("vision/post_norm/", "visual_projection/", "universal/latents")


def layer_depths(params: Mapping[str, Any]) -> Any:
    """How many layers every parameter is below the heads.

    Heads, fusion, decoder and the norm after the universal layers have depth 0. Of U
    universal layers the last has depth 1, the first U. Of the L layers of an encoder,
    vision's or the text's, the last has depth U + 1, the first U + L, and what comes
    before it, embeddings and their norm, U + L + 1. What lies between an encoder and
    the universal layers (vision's last norm, the visual projection) and the latents
    have the depth of the first universal layer. Without universal layers U is 0.

    Returns:
      A number for each leaf; for one of a scanned stack an array that multiplies it,
      with the layers along its first axis.
    """
    universal = sum(name.startswith("layer_") for name in params.get("universal", {}))
    below = {
        module: universal + _height(params[module].get(stack, {})) + 1
        for module, stack in STACKS.items()
        if module in params
    }

    def depth(path, leaf) -> Any:
        name = keystr(path, simple=True, separator="/")
        module, _, rest = name.partition("/")
        if name.startswith(BETWEEN):
            return universal
        if found := re.match(r"universal/layer_(\d+)/", name):
            return universal - int(found.group(1))
        if module not in STACKS:
            return 0
        if not rest.startswith(f"{STACKS[module]}/"):
            return below[module]
        depths = below[module] - 1 - np.arange(leaf.shape[0])
        return depths.reshape(-1, *[1] * (leaf.ndim - 1))

    return tree_map_with_path(depth, params)


def layer_factors(params: Mapping[str, Any], decay: float) -> Any:
    """What the learning rate of every parameter is multiplied by: decay ** depth."""
    return jax.tree.map(lambda depth: decay**depth, layer_depths(params))


def _height(stack: Any) -> int:
    leaves = jax.tree.leaves(stack)
    return leaves[0].shape[0] if leaves else 0

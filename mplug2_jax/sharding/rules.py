"""The one table from the model's logical axis names to the mesh's axes."""

from collections.abc import Sequence

from jax.sharding import PartitionSpec

# Rows of a batch, of its texts and of a queue are divided over both.
ROWS = ("data", "fsdp")

RULES: dict[str, str | tuple[str, ...] | None] = {
    # activations, pinned at the blocks' boundaries
    "batch": ROWS,
    "length": None,
    "embed_act": None,
    # parameters
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    # Gathering these costs more than they weigh (0.1 % of `large`).
    "head_dim": None,
    "norm": None,
    # Every device runs every layer.
    "layers": None,
}


def spec_of(names: Sequence[str | None], where: str) -> PartitionSpec:
    """The partition of an array whose axes have these names.

    Raises:
      ValueError: a name is not in `RULES`; `where` says whose it is.
    """
    for name in names:
        if name is not None and name not in RULES:
            raise ValueError(
                f"{where} has an axis {name!r}, for which there is no sharding rule; "
                f"expected one of {sorted(RULES)}, or a new line in sharding/rules.py."
            )
    return PartitionSpec(*(name and RULES[name] for name in names))

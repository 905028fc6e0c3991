"""The small parts all blocks are made of: projections, norms, dropout, embeddings.

Training is told from inference by the presence of a "dropout" random stream: with
`rngs={"dropout": key}` dropout and drop path act, without it they do not.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from mplug2_jax.models.config import Numerics, TextConfig

Initializer = Callable[..., Any]
SHORT_STACK = 4


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """CLIP's activation, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """BERT's activation, the exact (erf) GELU."""
    return jax.nn.gelu(x, approximate=False)


class Named(nn.LogicallyPartitioned):
    """A parameter's box with its axes' names; where it lies is decided outside.

    Flax's own box also pins the value to the mesh, and fails on a kernel that
    `nn.DenseGeneral` has not yet given its full shape.
    """

    def unbox(self, apply_constraint: bool = True) -> Any:
        return self.value


def named(init: Initializer, *axes: str | None) -> Initializer:
    """An initialiser whose parameter carries logical axis names for sharding."""

    def boxed(*args, **options) -> Named:
        return Named(init(*args, **options), axes)

    return boxed


def constrain(x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Pins activations at a block's boundary to batch-sharded; no-op off a mesh."""
    return nn.with_logical_constraint(x, ("batch", "length", "embed_act"))


def gathered(
    weights: Float[Array, "..."], axes: tuple[str | None, ...]
) -> Float[Array, "..."]:
    """Weights as a product wants them: whole along "embed"; no-op off a mesh.

    Left to itself the compiler lets parts of weights and of gradients go round in rings
    and multiplies one at a time: thin products, as many as devices. Said here, weights
    are gathered once for each use, and a gradient is summed whole and then divided.
    """
    return _gathered(weights, axes)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(weights, axes):
    return _placed(weights, _whole(axes))


def _gathered_forward(weights, axes):
    return _gathered(weights, axes), None


def _gathered_backward(axes, _, gradient):
    return (_placed(_placed(gradient, _whole(axes)), axes),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _whole(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return tuple(None if axis == "embed" else axis for axis in axes)


def _placed(x: Array, axes: tuple[str | None, ...]) -> Array:
    """Pins an array by its axes' names, but for those whose size does not divide."""
    if not nn.get_logical_axis_rules():
        return x
    mesh = jax.sharding.get_abstract_mesh()
    spec = nn.logical_to_mesh_axes(axes) or ()

    def divides(size: int, over) -> bool:
        names = (over,) if isinstance(over, str) else over or ()
        return size % math.prod(mesh.shape[name] for name in names) == 0

    fits = [
        over if divides(size, over) else None
        for size, over in zip(x.shape, spec, strict=True)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fits))


def _product(x: Array, kernel: Array, *args, axes, **options) -> Array:
    return jax.lax.dot_general(x, gathered(kernel, axes), *args, **options)


def dense(
    features: int | Sequence[int],
    kernel_axes: Sequence[str | None],
    init: Initializer,
    numerics: Numerics,
    *,
    axis: int | Sequence[int] = -1,
    name: str | None = None,
) -> nn.DenseGeneral:
    """A linear map with named axes; the bias takes the names of the outputs."""
    outputs = 1 if isinstance(features, int) else len(features)
    return nn.DenseGeneral(
        features,
        axis=axis,
        dtype=numerics.compute,
        param_dtype=numerics.params,
        kernel_init=named(init, *kernel_axes),
        bias_init=named(nn.initializers.zeros, *kernel_axes[-outputs:]),
        dot_general=partial(_product, axes=tuple(kernel_axes)),
        name=name,
    )


def layer_norm(
    epsilon: float, numerics: Numerics, *, name: str | None = None
) -> nn.LayerNorm:
    """Layer normalisation with statistics in float32."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=numerics.compute,
        param_dtype=numerics.params,
        # E[x^2] - E[x]^2 loses digits that parity with upstream needs.
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones, "norm"),
        bias_init=named(nn.initializers.zeros, "norm"),
        name=name,
    )


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` where a dropout stream is given."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class DropPath(nn.Module):
    """Drops a whole residual branch per row; `rate` may be traced (scanned depth)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], rate: Float[Array, ""] | None
    ) -> Float[Array, "B ..."]:
        if rate is None or not self.has_rng("dropout"):
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Mlp(nn.Module):
    """Two linear maps with an activation between: D -> `hidden` -> D."""

    hidden: int
    activation: Callable[[Array], Array]
    kernel_init: Initializer
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        project = partial(dense, init=self.kernel_init, numerics=self.numerics)
        x = project(self.hidden, ("embed", "mlp"), name="up")(x)
        return project(width, ("mlp", "embed"), name="down")(self.activation(x))


class TextEmbeddings(nn.Module):
    """BERT's embeddings: word + position + segment 0, norm, dropout."""

    config: TextConfig
    numerics: Numerics

    def setup(self):
        config, numerics = self.config, self.numerics
        embed = partial(
            nn.Embed,
            features=config.width,
            dtype=numerics.compute,
            param_dtype=numerics.params,
        )
        init = nn.initializers.normal(config.init_std)
        self.word = embed(
            config.padded_vocab_size, embedding_init=named(init, "vocab", "embed")
        )
        table = named(init, None, "embed")
        self.position = embed(config.max_positions, embedding_init=table)
        self.token_type = embed(config.type_vocab_size, embedding_init=table)
        self.norm = layer_norm(config.layer_norm_eps, numerics)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self, ids: Int[Array, "B L"], start: Int[Array, ""] | int = 0
    ) -> Float[Array, "B L D"]:
        """Embeds `ids`, the first of which stands at position `start`."""
        positions = start + jnp.arange(ids.shape[1])
        # Rows are looked up in a table of full width: a cut one would cut the words'
        # embeddings likewise, and every device would need those of the whole batch.
        words = constrain(self._table()[ids])
        x = words + self.position(positions) + self.token_type.embedding[0]
        return self.dropout(self.norm(x.astype(self.numerics.compute)))

    def _table(self) -> Float[Array, "V D"]:
        table = self.word.embedding.astype(self.numerics.compute)
        return gathered(table, ("vocab", "embed"))

    def logits(
        self, x: Float[Array, "B L D"], bias: Float[Array, "V"]
    ) -> Float[Array, "B L V"]:
        """Scores words with the tied table in float32; padded rows get -1e9."""
        table = self._table()
        scores = jnp.einsum("bld,vd->blv", x, table, preferred_element_type="float32")
        words = jnp.arange(self.config.padded_vocab_size) < self.config.vocab_size
        return jnp.where(words, scores + bias.astype(jnp.float32), -1e9)


def rematerialized(
    block: type[nn.Module], numerics: Numerics, methods=None, in_scan: bool = False
) -> type[nn.Module]:
    """The block whose backward pass recomputes what `numerics.remat` does not keep."""
    if numerics.remat == "none":
        return block
    policy = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": None,
    }[numerics.remat]
    # Outside a scan the compiler would merge the recomputation with the first one.
    return nn.remat(block, policy=policy, prevent_cse=not in_scan, methods=methods)


def scan_layers(block: type[nn.Module], depth: int, numerics: Numerics, methods=None):
    """Stacks `depth` copies of `block` into one scanned module.

    The block is called as `block(carry, scanned, shared)`: `scanned` is split over
    depth, `shared` is the same for all. Parameters gain a leading axis "layers".
    """
    return nn.scan(
        rematerialized(block, numerics, methods, in_scan=True),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),  # type: ignore[arg-type]
        length=depth,
        # A few layers compile quickly in a row, and run an eighth faster (tiny, CPU).
        unroll=depth if depth <= SHORT_STACK else 1,
        methods=methods,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )

"""Views: what they show is PyTorch's layout, and they really are views."""

import jax
import numpy as np
import pytest

from mplug2_jax.conversion import transforms

RNG = np.random.default_rng(0)
D, H, K = 6, 2, 3


def leaf(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "same": (transforms.same, (5, 4), (5, 4)),
    "linear": (transforms.linear, (5, 4), (4, 5)),
    "to_heads": (transforms.to_heads, (D, H, K), (H * K, D)),
    "head_bias": (transforms.head_bias, (H, K), (H * K,)),
    "from_heads": (transforms.from_heads, (H, K, D), (D, H * K)),
    "stem": (transforms.stem, (1, 4, 4, 3, D), (D, 3, 1, 4, 4)),
    "pointwise": (transforms.pointwise, (5, 4), (4, 5, 1, 1, 1)),
    "depthwise": (transforms.depthwise, (3, D), (D, 1, 3, 1, 1)),
    "first_rows": (transforms.first_rows(7), (8, D), (7, D)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_view_of_a_stacked_layer_inverts_itself(name):
    view, ours, theirs = CASES[name]
    stacked = np.zeros((2, *ours), np.float32)
    source = leaf(*theirs)
    view(stacked[1])[...] = source
    assert np.array_equal(view(stacked[1]), source)
    assert not stacked[0].any()
    abstract = jax.eval_shape(view, jax.ShapeDtypeStruct(ours, np.float32))
    assert abstract.shape == theirs


def test_projections_compute_what_pytorch_computes():
    x, kernel = leaf(5, D), leaf(D, H, K)
    ours = np.einsum("nd,dhk->nhk", x, kernel).reshape(5, -1)
    np.testing.assert_allclose(ours, x @ transforms.to_heads(kernel).T, rtol=1e-5)
    heads, out = leaf(5, H, K), leaf(H, K, D)
    ours = np.einsum("nhk,hkd->nd", heads, out)
    theirs = heads.reshape(5, -1) @ transforms.from_heads(out).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_stem_is_the_convolution():
    import torch

    kernel, frames = leaf(3, 4, 4, 3, D), leaf(1, 3, 3, 4, 4)  # B C T H W: one patch
    ours = np.einsum("bctij,tijcw->bw", frames, kernel)
    weight = torch.tensor(np.ascontiguousarray(transforms.stem(kernel)))
    theirs = torch.nn.functional.conv3d(torch.tensor(frames), weight)
    np.testing.assert_allclose(ours, theirs.flatten(1), rtol=1e-4, atol=1e-5)


def test_thirds_are_query_key_value():
    packed = np.arange(12).reshape(6, 2)
    parts = [transforms.third(i, packed) for i in range(3)]
    assert np.array_equal(np.concatenate(parts), packed)
    assert parts[1][0, 0] == 4

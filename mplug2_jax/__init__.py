"""mPLUG-2 in JAX/Flax: modular foundation model for text, image and video."""

__version__ = "0.1.0"

"""Optimizer, training state, step and loop."""

"""Checkpoint folders: reading, writing, and arrays that load when asked."""

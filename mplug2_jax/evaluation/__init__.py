"""Scores of predictions against truths; knows no model."""

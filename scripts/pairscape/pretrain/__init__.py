"""Sides, heads, loss, batches, training, runs."""

"""Ranks, retrieval, batch effects, expression, and their statistics."""

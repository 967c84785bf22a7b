"""Pairscape: image-gene pairs from Xenium bundles, and a benchmark of cross-modal learning on them."""

__version__ = "0.1.0"

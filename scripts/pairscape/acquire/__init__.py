"""Bundles read, checked and fetched; alignment files; weights fetched."""

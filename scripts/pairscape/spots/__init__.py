"""Lattices, pooling, spots.zarr, registration checks."""

"""Towers, their declarations, weights loaded strictly, DRVI fitting."""

"""Pairscape: image-gene pairs from Xenium bundles, and a benchmark of cross-modal learning on them.

In a notebook: ``open_bundle``, ``pool``, ``read_spots``, ``load_dataset`` and ``load_run``.
"""

__version__ = "0.1.0"
__all__ = ["load_dataset", "load_run", "open_bundle", "pool", "read_spots"]


def __getattr__(name: str):
    if name in __all__:
        from pairscape.own import api

        return getattr(api, name)
    raise AttributeError(f"module 'pairscape' has no attribute {name!r}")

"""What a training reads from disk and what it runs itself."""

from collections.abc import Mapping

from pairscape.encoders import specs as encoders


def runs_once(training: Mapping, gene_encoder: Mapping) -> dict[str, bool]:
    """Which sides of a pair are frozen, so that they are embedded once and read from disk.

    ``image``: a frozen trunk under a head that needs one vector per patch, without augmentation or
    with stored views of it. ``gene``: a frozen encoder that doesn't learn with the pair. Neither where
    frozen trunks stay in training mode.
    """
    plain = encoders.augmentation_kind(training) is None or training["stored_views"] > 0
    quiet = training["frozen_trunks"] == "eval"
    return {
        "image": encoders.takes_stored_images(training)
        and training["evaluation_crop"] == "whole"
        and plain,
        "gene": training["gene_tuning"] == "frozen"
        and gene_encoder["learned_from"] != "pair"
        and quiet,
    }


def stored_views(training: Mapping) -> int:
    """How many views of each patch an experiment reads from disk: one, or more with augmentation.

    View 0 is the patch as it is; it is the one that is validated and tested on.
    """
    augmented = encoders.augmentation_kind(training) is not None
    return 1 + training["stored_views"] if augmented else 1

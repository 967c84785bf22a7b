"""Embedding whole slides: by an encoder from their patches, or by a pair from an encoder's features.

A *model* is where embeddings come from: an image encoder as it came, or the image side of a
pretrained pair. A pair whose encoder was frozen needs no patch: it projects what the encoder made of
them, so that each slide goes through an encoder once.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.encoders import image_encoders, specs
from pairscape.images.grids import Grid
from pairscape.images.whole_slide import WholeSlide
from pairscape.pretrain import stored_pair
from pairscape.pretrain.side import Side
from pairscape.slides import slide_features

# TRIDENT's names of encoders that are called otherwise here, and give the same numbers.
TRIDENT_NAMES = {
    "uni": ("uni_v1",),
    "uni2_h": ("uni_v2",),
    "h_optimus_0": ("hoptimus0",),
    "h0_mini": ("h0-mini",),
    "conch": ("conch_v1",),  # by default TRIDENT too leaves the projection to the text's space out
}


@dataclass(frozen=True)
class SlideEmbedding:
    """The configuration's part ``slide_embedding``, which says what each means."""

    patch_px: int
    um_per_px: float
    min_tissue: float
    bad_slides: str
    figures: int


class Model(NamedTuple):
    """What embeds."""

    name: str
    width: int  # of its embeddings
    facts: dict  # attributes of the features; they tell this model from any other
    tower: nn.Module | None  # prepared images (B, 3, H, W) -> (B, width); None for a projection
    project: Callable | None  # features (n, D) -> (n, width) for a pair over a frozen encoder
    spec: Mapping  # the image encoder's file


def encoder_model(name: str, spec: Mapping, weights) -> Model:
    """An image encoder as it came."""
    tower = image_encoders.build(spec, weights)
    facts = {
        "encoder_sha256": specs.spec_sha256(spec),
        "weights_sha256": image_encoders.tower_sha256(tower),
    }
    return Model(name, spec["width"], facts, tower, None, spec)


def pair_model(name: str, checkpoint, weights=None) -> Model:
    """The image side of a pretrained pair, from its ``model.ckpt``.

    ``weights`` are those of its image encoder, for one that ran in the training (see
    ``stored_pair.load_image_side``).
    """
    side, description = stored_pair.load_image_side(checkpoint, weights)
    facts = {
        "pair_sha256": files.sha256_file(checkpoint),
        "weights_sha256": description["trunk_sha256"].get("images") or "",
    }
    spec, width = description["image_encoder"], description["training"]["embedding_dim"]
    if side.tower is None:
        return Model(name, width, facts, None, _projection(side), spec)
    return Model(name, width, facts, _Embedder(side), None, spec)


def embed_patches(
    model: Model, slide: WholeSlide, grid: Grid, batch: int, threads: int
) -> Iterator[np.ndarray]:
    """Yield the embedded patches of a slide in batches (B, width) float32, in the grid's order."""
    from pairscape.images import encoding

    def read(rows):
        patches = (slide.read_patch(grid.coords[row], grid.side_px, grid.patch_px) for row in rows)
        return encoding.fit_all(patches, model.spec["input"])

    count = len(grid.coords)
    batches = [range(at, min(at + batch, count)) for at in range(0, count, batch)]
    return image_encoders.embed(model.tower, model.spec, read, batches, threads)


def check_patches(path, attributes: Mapping, patch_px: int, um_per_px: float) -> None:
    """Refuse features of patches of another size, scale or overlap, as far as their file tells."""
    wanted = {
        "patch_size": patch_px,
        "target_magnification": round(10 / um_per_px),
        "overlap": 0,
        "patch_um_per_px": um_per_px,
    }
    for key, value in wanted.items():
        stated = attributes.get(key)
        if stated is None:
            continue
        try:
            same = math.isclose(float(stated), value, rel_tol=0.02)
        except (TypeError, ValueError):
            same = False
        if not same:
            remedy = (
                f"{value:g} is needed (slide_embedding: {patch_px} px of {um_per_px:g} µm, side "
            )
            remedy += f"by side): TRIDENT's --patch_size {patch_px} --mag {round(10 / um_per_px)}"
            raise InputError(path, key, str(stated)[:60], remedy)


def check_features(path, model_name: str, width: int, facts: Mapping, attributes: Mapping) -> None:
    """Refuse features of a user's that aren't this encoder's, as far as their file tells.

    ``facts`` are those of the encoder's ``Model`` as far as they are known; ``width`` and
    ``attributes`` the numbers per patch and the attributes of the file.
    """
    refuse = partial(InputError, path)
    made_by = attributes.get("encoder")
    names = (model_name, *TRIDENT_NAMES.get(model_name, ()))
    if made_by is not None and made_by not in names:
        remedy = f"features by {' or '.join(names)} are needed for this"
        raise refuse("encoder", str(made_by), remedy)
    if width != facts["width"]:
        remedy = f"{model_name} makes {facts['width']}: give its features"
        raise refuse("features", f"{width} numbers per patch", remedy)
    sha256 = attributes.get("weights_sha256")
    if sha256 is not None and facts.get("weights_sha256") not in (None, "", sha256):
        others = f"the weights of {model_name} are others ({facts['weights_sha256'][:12]})"
        raise refuse("weights_sha256", str(sha256)[:12], f"{others}: embed again")


def is_made(path, made_from: str) -> bool:
    """Whether a slide's features lie there already, whole and made from the same."""
    if not Path(path).is_file():
        return False
    try:
        _, _, attributes = slide_features.read_slide_facts(path)
        if attributes.get("made_from") != made_from:
            return False
        slide_features.verify(path)
    except InputError:
        return False
    return True


class _Embedder(nn.Module):
    """A pair's image side as a tower: prepared images -> embeddings."""

    def __init__(self, side: Side):
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tower = self.side.tower
        return self.side.project(tower.tokens(images) if self.side.takes_tokens else tower(images))


def _projection(side: Side) -> Callable[[np.ndarray], np.ndarray]:
    @torch.inference_mode()
    def project(features: np.ndarray) -> np.ndarray:
        return side.project(torch.from_numpy(features)).numpy()

    return project

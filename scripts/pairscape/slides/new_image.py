"""Embedding a new H&E image by the image side of a pretrained pair, and its nearest gene profiles.

Pixel coordinates are those of the image's full resolution: pixel ``i`` covers ``[i, i + 1)``.
"""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards
from pairscape.images.encoding import encode_patch, tissue_fraction
from pairscape.images.he_image import HEImage

NEAREST = 5
INDEX_COLUMNS = ("patch", "x_px", "y_px", "side_px", "tissue_fraction")
SPOT_COLUMNS = ("sample", "donor", "spot", "x_um", "y_um", "organ", "disease_state")
NEAREST_COLUMNS = ("patch", "place", "similarity", "row", *SPOT_COLUMNS)
_BLOCK_NUMBERS = 1 << 22  # similarities held at once (16 MB)


class Field(NamedTuple):
    """What a patch shows: its side in its own pixels, and their size; and how it was stored."""

    patch_px: int
    um_per_px: float
    encoding: str | None = None  # None: as it is cut
    quality: int = 95

    @property
    def side_um(self) -> float:
        return self.patch_px * self.um_per_px


def read_facts(path) -> dict:
    """The facts that a pair was saved with: names, dataset, seed, ``options_sha256``."""
    from pairscape.pretrain import stored_pair

    _refuse_closed_form(path)
    return stored_pair.read_stored(path)[2]


def load_model(path, weights=None):
    """The whole way from patches to a pair's shared space, whether its encoder was frozen or not.

    ``path`` is the ``model.ckpt`` of a run, ``weights`` the file of the image encoder's weights; not
    for those in a Python package, and not for an encoder that was trained whole. The tower of the
    ``slide_embedding.Model`` makes what its ``project`` takes (None: embeddings).
    """
    from pairscape.encoders import specs
    from pairscape.encoders.weights import find_weights
    from pairscape.slides import slide_embedding

    model = slide_embedding.pair_model(Path(path).name, path, weights)
    if not specs.sees_patches(model.spec):
        raise InputError(path, "image encoder", model.spec["title"], "it sees no patches")
    if model.tower is not None:
        return model
    spec = model.spec
    trunk = slide_embedding.encoder_model(
        "trunk", spec, None if spec["weights"] is None else find_weights(spec, weights)
    )
    given, expected = trunk.facts["weights_sha256"], model.facts["weights_sha256"]
    if given != expected:
        found = f"others ({given[:12]}) than it was trained on ({expected[:12]})"
        remedy = "give the weights of its training with --image-weights, see options.json beside it"
        raise InputError(path, "weights of the images", found, remedy)
    return model._replace(tower=trunk.tower)


def find_field(model_path, dataset: str) -> Field:
    """The field of view that a run was trained on, from the shards of its dataset.

    The model lies at ``<results>/runs/<experiment>/<dataset>/<pair>/seed<k>/model.ckpt``. A dataset
    that uses another's shards (``shards_of``) is told by the shards in the run's ``options.json``.
    """
    give = "give --patch-px and --patch-um-per-px"
    folder = Path(model_path).resolve().parent
    shards = []
    if len(folder.parents) > 4:  # else it doesn't lie in results at all
        datasets, options = folder.parents[4] / "datasets", folder / "options.json"
        shards = sorted(datasets.glob(f"{dataset}/shards/*.arrow"))
        if not shards and options.is_file():
            shards = [
                path
                for shard in files.read_json(options)["shards"]
                for path in sorted(datasets.glob(f"*/shards/{shard['sample']}.arrow"))
                if files.sha256_file(path) == shard["sha256"]
            ]
    if not shards:
        raise InputError(model_path, f"shards of {dataset}", "none in the results around it", give)
    patches = pair_shards.shard_metadata(shards[0])["patches"] or {}
    if "native_px" in patches or not {"patch_px", "um_per_px"} <= set(patches):
        found = "native pixels, other in each sample" if patches else "nothing of its patches"
        raise InputError(shards[0], "patches", found, f"{give} of the sample that is like yours")
    stored = patches.get("encoding"), patches.get("quality", 95)
    return Field(patches["patch_px"], patches["um_per_px"], *stored)


def embed_patches(
    model, image: HEImage, centres: np.ndarray, field: Field, min_tissue: float, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut and embed patches; those with less tissue than ``min_tissue`` are left out.

    Places of the kept patches among ``centres`` (n,), ascending; embeddings (n, width) float32;
    tissue fraction (n,).
    """
    from pairscape.core import logs
    from pairscape.encoders import image_encoders
    from pairscape.images.encoding import decode, fit_all

    side_px = field.side_um / image.um_per_px
    places, tissue = [], []

    def batches():
        kept = []
        cut = image.iter_patches(centres, side_px, field.patch_px)
        for place, patch in logs.progress(cut, "patches", len(centres), "patch"):
            share = tissue_fraction(patch)
            if share < min_tissue:
                continue
            places.append(place)
            tissue.append(share)
            if field.encoding is not None:  # the pair has seen its traces, and none without
                stored = encode_patch(patch, field.encoding, field.quality)
                patch = decode(stored, image.path, place)
            kept.append(patch)
            if len(kept) == image_encoders.batch_size():
                yield fit_all(kept, model.spec["input"])
                kept.clear()
        if kept:
            yield fit_all(kept, model.spec["input"])

    blocks = list(
        image_encoders.embed(model.tower, model.spec, lambda batch: batch, batches(), threads)
    )
    if not blocks:
        found = f"none of {len(centres)} patches with a share of {min_tissue:g}"
        remedy = "look at the image, or lower --min-tissue"
        raise InputError(image.path, "tissue", found, remedy)
    embeddings = np.concatenate(blocks)
    if model.project is not None:
        embeddings = model.project(embeddings)
    order = np.argsort(places)
    return np.array(places)[order], embeddings[order], np.array(tissue)[order]


def _refuse_closed_form(path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as stored:
            names = stored.namelist()
        if "image_map.npy" in names:
            found = "a closed-form alignment of stored features, without an image encoder"
            raise InputError(path, "model", found, "give the model.ckpt of a trained pair")


def read_gallery(path, meta: dict) -> dict:
    """Read the embedded gene profiles of a run (``<split>_genes.npy``), checked with its index.

    It lies in a run's folder ``embeddings``, with what belongs to it. ``meta`` are the facts of the
    pair: its own run alone shares its space.
    """
    from pairscape.pretrain import run_embeddings

    path = Path(path)
    split = path.name.removesuffix("_genes.npy")
    if split == path.name or path.parent.name != "embeddings":
        remedy = "give embeddings/<split>_genes.npy of the pair's run"
        raise InputError(path, "name", path.name, remedy)
    gallery = run_embeddings.read_run_embeddings(path.parent.parent, split)
    if gallery["meta"].get("options_sha256") != meta.get("options_sha256"):
        names = ("experiment", "dataset", "image_encoder", "gene_encoder", "seed")
        run = json.dumps({name: gallery["meta"].get(name) for name in names})
        remedy = "give those in the folder of --model: each pair has a space of its own"
        raise InputError(path, "run", f"embeddings by another pair: {run}", remedy)
    return gallery


def nearest_profiles(images: np.ndarray, gallery: dict, count: int = NEAREST) -> Iterable[dict]:
    """Yield the rows of ``NEAREST_COLUMNS``: by patch, the spots with the most similar genes.

    Equally similar spots come in the order of the gallery.
    """
    genes, index = gallery["genes"], gallery["index"]
    spots = index[list(SPOT_COLUMNS)].to_dict("records")
    rows = index["row"].tolist()
    size = max(1, _BLOCK_NUMBERS // max(len(genes), 1))
    for start in range(0, len(images), size):
        similarity = images[start : start + size] @ np.asarray(genes).T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        for patch, places in enumerate(order, start):
            for place, spot in enumerate(places, 1):
                yield {
                    "patch": patch,
                    "place": place,
                    "similarity": float(similarity[patch - start, spot]),
                    "row": rows[spot],
                    **spots[spot],
                }

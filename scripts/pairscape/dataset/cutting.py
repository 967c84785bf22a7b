"""Cutting the patch around each spot: the rows of a shard."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pairscape.core.errors import one_of
from pairscape.dataset.pair_shards import BATCH_ROWS, PUBLISHED_TEXT
from pairscape.images.encoding import encode_patch, tissue_fraction


@dataclasses.dataclass(frozen=True)
class PatchPreset:
    """A patch preset; its fields are explained in the schema of the configuration."""

    um_per_px: float | None = None
    patch_px: int | None = None
    native_px: int | None = None
    encoding: str = "jpeg"
    quality: int = 95


def read_preset(given: Mapping) -> PatchPreset:
    """The preset that the options give."""
    for key in given:
        keys = [field.name for field in dataclasses.fields(PatchPreset)]
        one_of(key, keys, "--options", "patches")
    return PatchPreset(**given)


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where the patches of a sample lie, in pixels of the H&E, and how they are stored.

    ``patches`` have their ``patch_px`` and ``um_per_px``, also where they are native.
    """

    patches: PatchPreset
    side_px: float
    centres_px: np.ndarray  # (N, 2) of the spots
    middles_px: np.ndarray  # (N, 2) of the patches: the same, or less than a pixel away (native)

    def select(self, chosen: np.ndarray) -> "Cut":
        """Those of some spots."""
        centres_px, middles_px = self.centres_px[chosen], self.middles_px[chosen]
        return dataclasses.replace(self, centres_px=centres_px, middles_px=middles_px)


def plan_cut(preset: PatchPreset, centres_px: np.ndarray, um_per_px: float) -> Cut:
    """The patches around spots of an H&E with that many µm per pixel."""
    if side_px := preset.native_px:
        patches = dataclasses.replace(preset, patch_px=side_px, um_per_px=um_per_px)
        middles_px = np.floor(centres_px - side_px / 2 + 0.5) + side_px / 2
        return Cut(patches, side_px, centres_px, middles_px)
    side_px = preset.patch_px * preset.um_per_px / um_per_px
    return Cut(preset, side_px, centres_px, centres_px)


def pair_features(gene_count: int, labels: Mapping[str, Sequence[str]]):
    """The Hugging Face features (datasets.Features) of a shard.

    ``labels`` are the class names of ``name``, ``source`` and ``tissue``: those of all samples of
    the dataset, since shards whose names differ load silently wrong.
    """
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "name": ClassLabel(names=list(labels["name"])),
            "image": Image(),
            "gexp": List(List(Value("int32"), length=gene_count), length=1),
            "cell_coords": List(Value("float32"), length=2),
            "source": ClassLabel(names=list(labels["source"])),
            "tissue": ClassLabel(names=list(labels["tissue"])),
            **{column: Value("string") for column in PUBLISHED_TEXT},
            "cancer": Value("bool"),
            "sample": Value("string"),
            "donor": Value("string"),
            "spot": Value("string"),
            "array_row": Value("int32"),
            "array_col": Value("int32"),
            "x_um": Value("float64"),
            "y_um": Value("float64"),
            "um_per_px": Value("float32"),
            "tissue_fraction": Value("float32"),
        }
    )


def sample_columns(sample: Mapping[str, str]) -> dict:
    """The columns of a pair that are the same for a whole sample, from its row of the sample table.

    What the sample table doesn't hold is empty, as in the published data set.
    """
    state = sample.get("disease_state", "").casefold()
    human = sample.get("panel", "").startswith("human")
    known = {
        "diagnosis": state,
        "oncotree_code": sample.get("oncotree_code", ""),
        "assay": "Xenium",
        "preservation_method": sample.get("preservation", ""),
        "stain": "HnE",
        "species": "Homo sapiens" if human else "",
    }
    return {
        "name": sample["sample"],
        "source": sample["source"],
        "tissue": sample["organ"].lower(),  # as in the published data set
        **{column: known.get(column, "") for column in PUBLISHED_TEXT},
        "cancer": state == "cancer",
        "sample": sample["sample"],
        "donor": sample["donor"],
    }


def iter_pairs(
    slide, spots, gene_positions: Sequence[int], cut: Cut, constant: Mapping, folder: Path
) -> Iterator[dict]:
    """Yield the pairs of a sample, in the order of its spots (AnnData, see ``spots.read_spots``).

    Patches are cut in the order of the slide's tiles and wait, encoded, in an unnamed file in
    ``folder`` for their turn, so that memory holds neither the slide nor the sample. The columns
    ``gene_positions`` of the spots make ``gexp``; for ``constant`` see ``sample_columns``.
    """
    from pairscape.core import logs

    patches, count = cut.patches, len(cut.centres_px)
    extent = np.zeros((count, 2), np.int64)  # offset and size of each encoded patch
    tissue = np.zeros(count, np.float32)
    with tempfile.TemporaryFile(dir=folder) as spool:
        cutting = slide.iter_patches(cut.middles_px, cut.side_px, patches.patch_px)
        end = 0
        for index, patch in logs.progress(cutting, "patches", count, "patch"):
            encoded = encode_patch(patch, patches.encoding, patches.quality)
            spool.write(encoded)
            extent[index] = end, len(encoded)
            end += len(encoded)
            tissue[index] = tissue_fraction(patch)
        counts = spots.X[:, list(gene_positions)].tocsr()
        obs = spots.obs
        for start in range(0, count, BATCH_ROWS):
            block = slice(start, start + BATCH_ROWS)
            dense = counts[block].toarray().astype(np.int32, copy=False)
            for i, (spot, row) in enumerate(
                zip(obs.index[block], obs.iloc[block].to_dict("records"), strict=True), start
            ):
                spool.seek(extent[i, 0])
                yield {
                    **constant,
                    "image": spool.read(extent[i, 1]),
                    "gexp": dense[i - start],
                    "cell_coords": cut.centres_px[i],
                    "spot": str(spot),
                    **{key: row[key] for key in ("array_row", "array_col", "x_um", "y_um")},
                    "um_per_px": patches.um_per_px,
                    "tissue_fraction": tissue[i],
                }

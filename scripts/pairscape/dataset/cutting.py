"""Cutting the patch around each spot: the rows of a shard."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pairscape.dataset.pair_shards import BATCH_ROWS, PUBLISHED_TEXT
from pairscape.images.encoding import encode_patch, tissue_fraction


def pair_features(gene_count: int, labels: Mapping[str, Sequence[str]]):
    """The Hugging Face features of a shard.

    Parameters
    ----------
    gene_count
        G, the width of ``gexp``.
    labels
        Class names of ``name``, ``source`` and ``tissue``: those of the whole sample table, since
        shards whose names differ load silently wrong.

    Returns
    -------
    datasets.Features
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
    slide,
    spots,
    gene_positions: Sequence[int],
    centres_px: np.ndarray,
    middles_px: np.ndarray,
    patches: Mapping,
    side_px: float,
    constant: Mapping,
    folder,
) -> Iterator[dict]:
    """Yield the pairs of a sample, in the order of its spots.

    Patches are cut in the order of the slide's tiles and wait, encoded, in an unnamed file in
    ``folder`` for their turn, so that memory holds neither the slide nor the sample.

    Parameters
    ----------
    slide
        The open H&E, a ``HEImage``.
    spots
        AnnData of N spots, see ``spots.read_spots``.
    gene_positions
        (G,) which columns of ``spots`` make ``gexp``, in order.
    centres_px
        (N, 2) spot centres in H&E pixels.
    middles_px
        (N, 2) middles of the patches: the same, or less than a pixel away (native pixels).
    patches
        ``um_per_px``, ``patch_px``, ``encoding``, ``quality``.
    side_px
        Side of a patch in H&E pixels.
    constant
        See ``sample_columns``.
    """
    import tempfile

    from pairscape.core import logs

    count = len(centres_px)
    extent = np.zeros((count, 2), np.int64)  # offset and size of each encoded patch
    tissue = np.zeros(count, np.float32)
    with tempfile.TemporaryFile(dir=folder) as spool:
        cut = slide.iter_patches(middles_px, side_px, patches["patch_px"])
        end = 0
        for index, patch in logs.progress(cut, "patches", count, "patch"):
            encoded = encode_patch(patch, patches["encoding"], patches.get("quality", 95))
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
                    "cell_coords": centres_px[i],
                    "spot": str(spot),
                    **{key: row[key] for key in ("array_row", "array_col", "x_um", "y_um")},
                    "um_per_px": patches["um_per_px"],
                    "tissue_fraction": tissue[i],
                }

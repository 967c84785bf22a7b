"""Take the pairs of one sample out of a local copy of the published data set.

IN   the copy's folder (or its files), genes.tsv
OUT  one Arrow shard, as export_pairs writes it, its images byte for byte as published

Options: sample (its row of the sample table), dataset, labels (all class names).

The published rows have no spot names and no micrometres. Their lattice is one of 55 µm along the axes
of the H&E, so rows and columns are counted from `cell_coords`; `x_um` and `y_um` are those times the
sample's µm per pixel, in the frame of the H&E.
"""

import io

import numpy as np

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.files import sha256_json
from pairscape.core.logs import log
from pairscape.dataset import cutting, gene_lists, pair_shards, published_pairs
from pairscape.images import encoding
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        published_data="folder of one panel of the published data set",
        genes="genes.tsv of the dataset",
        shard=program.Output("Arrow shard to write"),
    )
    sample, labels = args.options["sample"], args.options["labels"]
    name = sample["sample"]
    um_per_px = float(sample.get("he_um_per_px") or 0)
    if not um_per_px > 0:
        raise InputError(
            "sample table",
            f"sample {name}, he_um_per_px",
            repr(sample.get("he_um_per_px", "")),
            "give the µm per pixel of its H&E: the published pairs don't tell their scale",
        )
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    files = published_pairs.list_files(args.published_data)
    centres_px = published_pairs.read_places(files, name)
    if not len(centres_px):
        raise InputError(
            args.published_data,
            "column name",
            f"no row of {name}",
            f"take {name} out of the dataset, or give the panel that holds it",
        )
    row, column, regular = published_pairs.lattice(centres_px, um_per_px)
    if not regular:
        log.warning(
            "%s: its spots aren't on a lattice of 55 µm at %g µm per pixel; array_col numbers them",
            name,
            um_per_px,
        )
    first = next(published_pairs.iter_rows(files, name, len(genes), ()))["image"]
    side_px = _decode(first, args.published_data, f"{name}, row 0, image").shape[1]
    metadata = {
        "sample": name,
        "dataset": args.options["dataset"],
        "genes": genes,
        "patches": {
            "encoding": "published",
            "native_px": side_px,
            "patch_px": side_px,
            "um_per_px": um_per_px,
            "side_px": side_px,
        },
        "spots": {
            "sample": name,
            "preset": {
                "shape": "square",
                "size_um": published_pairs.PITCH_UM,
                "source": "published",
            },
        },
        "spots_left_out": 0,
        "alignment": {"frame": "H&E", "um_per_px": um_per_px},
        "labels_sha256": sha256_json(labels),
        "result_version": RESULT_VERSION,
    }
    features = cutting.pair_features(len(genes), labels)
    rows = _rows(files, sample, len(genes), centres_px, row, column, um_per_px)
    total = len(centres_px)
    written = pair_shards.write_shard(
        args.shard, logs.progress(rows, name, total, "pair"), features, metadata
    )
    log.info(
        "%s: %d pairs of %d genes, imported from %d file(s)", name, written, len(genes), len(files)
    )


def _rows(files, sample, gene_count, centres_px, row, column, um_per_px):
    """Rows of the shard: what the sample table knows, then what the published row says."""
    constant = cutting.sample_columns(sample)
    texts = (*pair_shards.PUBLISHED_TEXT, "cancer")
    for i, found in enumerate(
        published_pairs.iter_rows(files, sample["sample"], gene_count, texts)
    ):
        patch = _decode(found["image"], files[0].parent, f"{sample['sample']}, row {i}, image")
        told = {key: found[key] for key in texts if found.get(key, "") != ""}
        yield {
            **constant,
            **{key: value if key == "cancer" else str(value) for key, value in told.items()},
            "image": found["image"],
            "gexp": found["gexp"],
            "cell_coords": found["cell_coords"],
            "spot": f"{row[i]:03d}x{column[i]:03d}",
            "array_row": int(row[i]),
            "array_col": int(column[i]),
            "x_um": float(centres_px[i, 0] * um_per_px),
            "y_um": float(centres_px[i, 1] * um_per_px),
            "um_per_px": um_per_px,
            "tissue_fraction": encoding.tissue_fraction(patch),
        }


def _decode(data: bytes, folder, field: str) -> np.ndarray:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except OSError as error:
        raise InputError(folder, field, str(error), "the copy is damaged: fetch it again") from None


if __name__ == "__main__":
    program.run(main)

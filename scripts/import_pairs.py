"""Take the pairs of one sample out of a local copy of the published data set.

IN   the copy's folder (or its files), genes.tsv
OUT  one Arrow shard, as export_pairs writes it, its images byte for byte as published

Options: sample (its row of the sample table), dataset, labels (all class names).

The published rows have no spot names and no micrometres. Their lattice is one of 55 µm along the axes
of the H&E, so rows and columns are counted from `cell_coords`; `x_um` and `y_um` are those times the
sample's µm per pixel, in the frame of the H&E.
"""

import io
import itertools

import numpy as np

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.files import sha256_json
from pairscape.core.logs import log
from pairscape.dataset import cutting, gene_lists, pair_shards, published_pairs
from pairscape.images import encoding
from pairscape.jobs import program

RESULT_VERSION = 1
PRESET = {"shape": "square", "size_um": published_pairs.PITCH_UM, "source": "published"}


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
        stated = repr(sample.get("he_um_per_px", ""))
        remedy = "give the µm per pixel of its H&E: the published pairs don't tell their scale"
        raise InputError("sample table", f"sample {name}, he_um_per_px", stated, remedy)
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    files = published_pairs.list_files(args.published_data)
    parts = published_pairs.find_parts(files, name)
    centres_px = published_pairs.read_places(parts)
    if not len(centres_px):
        remedy = f"take {name} out of the dataset, or give the panel that holds it"
        raise InputError(args.published_data, "column name", f"no row of {name}", remedy)
    row, column, regular = published_pairs.lattice(centres_px, um_per_px)
    if not regular:
        words = (
            "%s: its spots aren't on a lattice of 55 µm at %g µm per pixel; array_col numbers them"
        )
        log.warning(words, name, um_per_px)
    texts = (*pair_shards.PUBLISHED_TEXT, "cancer")
    published = published_pairs.iter_rows(parts, len(genes), texts)
    first = next(published)
    side_px = _decode(first["image"], args.published_data, f"{name}, row 0, image").shape[1]
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
        "spots": {"sample": name, "preset": PRESET},
        "spots_left_out": 0,
        "alignment": {"frame": "H&E", "um_per_px": um_per_px},
        "labels_sha256": sha256_json(labels),
        "result_version": RESULT_VERSION,
    }
    features = cutting.pair_features(len(genes), labels)
    places = zip(row.tolist(), column.tolist(), (centres_px * um_per_px).tolist(), strict=True)
    published = zip(itertools.chain([first], published), places, strict=True)
    rows = _rows(published, texts, sample, um_per_px, parts[0].path.parent)
    rows = logs.progress(rows, name, len(row), "pair")
    written = pair_shards.write_shard(args.shard, rows, features, metadata)
    words = "%s: %d pairs of %d genes, imported from %d file(s)"
    log.info(words, name, written, len(genes), len(parts))


def _rows(published, texts, sample, um_per_px: float, folder):
    """Rows of the shard: what the sample table knows, then what the published row says.

    ``published``: rows as published, each with its row, column and place in µm.
    """
    constant, name = cutting.sample_columns(sample), sample["sample"]
    for i, (pair, (row, column, (x_um, y_um))) in enumerate(published):
        patch = _decode(pair["image"], folder, f"{name}, row {i}, image")
        stated = {key: pair[key] for key in texts if pair.get(key, "") != ""}
        yield {
            **constant,
            **{key: value if key == "cancer" else str(value) for key, value in stated.items()},
            **{key: pair[key] for key in ("image", "gexp", "cell_coords")},
            "spot": f"{row:03d}x{column:03d}",
            "array_row": row,
            "array_col": column,
            "x_um": x_um,
            "y_um": y_um,
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

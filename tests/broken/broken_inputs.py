"""What can be wrong with the inputs: each case spoils one thing of a good input.

A case's ``spoil(place, call)`` changes the files in ``place`` or the call itself; the program must
then refuse it, and name ``file`` (its end) and ``field`` (a part of it).
"""

import gzip
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from good_inputs import small_pairs, tiny_bundle, write_spots

from pairscape.dataset.splits import SPLITS_TABLE

os.environ["PAIRSCAPE_BLANK"] = "a b"  # a secret that no address can hold


class Case(NamedTuple):
    program: str
    name: str
    spoil: Callable
    file: str
    field: str


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_transcripts(place: Path, change: Callable) -> None:
    table = pq.read_table(place / "outs" / "transcripts.parquet").to_pandas()
    tiny_bundle.write_transcripts(place / "outs", change(table))


def set_value(column: str, value, row: int = 5) -> Callable:
    def spoil(place, call):
        def change(table):
            table.loc[row, column] = value
            return table

        edit_transcripts(place, change)

    return spoil


def edit_splits(place: Path, words: str) -> None:
    rows = SPLITS_TABLE.read(place / "splits.tsv")
    rows.append({**rows[0], "split": "test", "shared_donors": words})
    SPLITS_TABLE.write(place / "splits.tsv", rows)


def swap_axes(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["x_location"] < 300].reset_index(drop=True)
    return table.rename(columns={"x_location": "y_location", "y_location": "x_location"})


def swap_in_a_wide_image(place, call):
    write_morphology(place, (1420, 2000))
    table = pq.read_table(place / "outs" / "transcripts.parquet").to_pandas()
    table = table[table["y_location"] < 300]
    table = table.rename(columns={"x_location": "y_location", "y_location": "x_location"})
    tiny_bundle.write_transcripts(place / "outs", table)


def write_morphology(place, shape, **metadata) -> Path:
    import tifffile

    path = place / "outs" / "morphology_focus" / "morphology_focus_0000.ome.tif"
    options = {"tile": (512, 512), "compression": "zlib", "metadata": {"axes": "YX", **metadata}}
    image = np.random.default_rng(0).integers(0, 999, shape, np.uint16)
    tifffile.imwrite(path, image, **options)
    return path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = b"\x55" * third
    path.write_bytes(content)


def invert_alignment(place, call):
    matrix = np.loadtxt(place / "he.csv", delimiter=",")
    np.savetxt(place / "he.csv", np.linalg.inv(matrix), delimiter=",")


def he_of_another_sample(place, call):
    small_pairs.write_slide(place / "he.ome.tif", small_pairs.tissue_image(250, 300), 0.5)


def text_table_cut_off(place, call):
    path = place / "outs" / "transcripts.parquet"
    text = pq.read_table(path).to_pandas().to_csv(index=False).encode()
    path.unlink()
    path.with_name("transcripts.csv.gz").write_bytes(gzip.compress(text)[:-2000])


def rename_cells(place, call):
    def change(table):
        assigned = table["cell_id"] != "UNASSIGNED"
        table.loc[assigned, "cell_id"] = "z" + table.loc[assigned, "cell_id"]
        return table

    edit_transcripts(place, change)


def double_rows(place, call):
    edit_transcripts(place, lambda table: pd.concat([table, table], ignore_index=True))


def matrix_of_another_panel(place, call):
    import h5py

    with h5py.File(place / "outs" / "cell_feature_matrix.h5", "a") as file:
        names = [b"OTHER%d" % i for i in range(len(file["matrix/features/name"]))]
        file["matrix/features/name"][...] = names


def matrix_elsewhere(place, call):
    import h5py

    path = place / "outs" / "cell_feature_matrix.h5"
    path.rename(path.with_name("other.h5"))
    with h5py.File(path, "w") as file:
        file["matrix"] = h5py.ExternalLink("other.h5", "/matrix")


def tint(path: Path) -> None:
    """Let the tag PhotometricInterpretation of the first page say CIELAB."""
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[262].overwrite(8)


def option(*path):
    """Set the option at all but the last of ``path`` to the last."""

    def spoil(place, call):
        at = call["options"]
        for key in path[:-2]:
            at = at[key]
        at[path[-2]] = path[-1]

    return spoil


def flag(name, value):
    def spoil(place, call):
        call["flags"][name] = value

    return spoil


def centres_without_names(place, call):
    (place / "centres.tsv").write_text("x\ty\n100\t100\n")
    centres = {"file": str(place / "centres.tsv"), "x": "x", "y": "y", "name": "spot"}
    call["options"]["spots"] |= {"shape": "circle", "centres": centres}


def address(**values):
    def spoil(place, call):
        del call["flags"]["archive"]
        call["options"]["sample"] |= values

    return spoil


def archive_of(*members) -> Callable:
    def spoil(place, call):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in members:
                packed.writestr(name, text)
        (place / "mine.zip").write_bytes(content.getvalue())

    return spoil


def own_files_there(place, call):
    folder = call["flags"]["bundle"]
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")


def edit_config(change: Callable) -> Callable:
    def spoil(place, call):
        config = yaml.safe_load((place / "config.yaml").read_text())
        change(config)
        (place / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


def edit_table(old: str, new: str) -> Callable:
    def spoil(place, call):
        table = (place / "samples.tsv").read_text()
        assert old in table
        (place / "samples.tsv").write_text(table.replace(old, new))

    return spoil


def export_again(**changes) -> Callable:
    """Export sample S2 with other patches or labels than the others."""

    def spoil(place, call):
        import export_pairs

        options = {
            "sample": small_pairs.sample_row("S2"),
            "dataset": "tiny",
            "patches": small_pairs.PATCHES,
            "labels": small_pairs.LABELS,
            **changes,
        }
        folder = place / "S2"
        flags = {
            "spots": folder / "spots.zarr",
            "he-image": folder / "he.ome.tif",
            "he-alignment": folder / "alignment.csv",
            "genes": place / "genes.tsv",
            "shard": place / "shards" / "S2.arrow",
        }
        argv = [part for name, path in flags.items() for part in (f"--{name}", str(path))]
        export_pairs.main([*argv, "--options", json.dumps(options)])

    return spoil


CHECK_BUNDLE = [
    ("no bundle at that path", flag("bundle", "nowhere/outs"), "outs", "bundle"),
    (
        "experiment.xenium isn't JSON",
        lambda p, c: cut(p / "outs" / "experiment.xenium"),
        "experiment.xenium",
        "JSON",
    ),
    (
        "a pixel size in metres",
        lambda p, c: edit_json(p / "outs" / "experiment.xenium", pixel_size=2.125e-7),
        "experiment.xenium",
        "pixel_size",
    ),
    (
        "transcripts missing",
        lambda p, c: (p / "outs" / "transcripts.parquet").unlink(),
        "transcripts.parquet",
        "file",
    ),
    (
        "transcripts cut off",
        lambda p, c: cut(p / "outs" / "transcripts.parquet"),
        "transcripts.parquet",
        "footer",
    ),
    ("transcripts.csv.gz cut off", text_table_cut_off, "transcripts.csv.gz", "rows"),
    (
        "a NaN coordinate",
        set_value("x_location", np.nan),
        "transcripts.parquet",
        "x_location, y_location",
    ),
    ("a quality value of 400", set_value("qv", 400), "transcripts.parquet", "qv"),
    (
        "no gene transcript",
        lambda p, c: edit_transcripts(p, lambda t: t[~t["is_gene"]]),
        "transcripts.parquet",
        "gene transcripts",
    ),
    (
        "a gene that gene_panel.json doesn't list",
        lambda p, c: tiny_bundle.write_panel(p / "outs", tiny_bundle.GENES[:4]),
        "transcripts.parquet",
        "feature_name",
    ),
    (
        "another panel in the sample table than in the bundle",
        lambda p, c: flag("panel", p / "panels" / "lung.tsv")(p, c),
        "gene_panel.json",
        "genes",
    ),
    (
        "no list of genes at all",
        lambda p, c: [
            (p / "outs" / name).unlink() for name in ("gene_panel.json", "cell_feature_matrix.h5")
        ],
        "gene_panel.json",
        "file",
    ),
    (
        "x and y swapped, in a wide image",
        swap_in_a_wide_image,
        "transcripts.parquet",
        "x_location, y_location",
    ),
    (
        "x and y swapped, in a square image",
        lambda p, c: edit_transcripts(p, swap_axes),
        "transcripts.parquet",
        "x_location, y_location",
    ),
    ("every transcript twice", double_rows, "transcripts.parquet", "transcript_id"),
    ("cells of another run", rename_cells, "transcripts.parquet", "cell_id"),
    (
        "cells.parquet cut off",
        lambda p, c: cut(p / "outs" / "cells.parquet"),
        "cells.parquet",
        "file",
    ),
    (
        "cell matrix of another panel",
        matrix_of_another_panel,
        "cell_feature_matrix.h5",
        "matrix/features",
    ),
    (
        "tiles of the morphology image damaged",
        lambda p, c: damage(write_morphology(p, (2000, 2000))),
        "morphology_focus_0000.ome.tif",
        "image",
    ),
    (
        "morphology image of another pixel size",
        lambda p, c: write_morphology(p, (2000, 2000), PhysicalSizeX=0.425, PhysicalSizeY=0.425),
        "morphology_focus_0000.ome.tif",
        "PhysicalSizeX",
    ),
    ("H&E missing", lambda p, c: (p / "he.ome.tif").unlink(), "he.ome.tif", "file"),
    ("H&E damaged", lambda p, c: damage(p / "he.ome.tif"), "he.ome.tif", "tile"),
    ("H&E of another sample", he_of_another_sample, "he.ome.tif", "extent"),
    ("alignment missing", flag("he_alignment", None), "sample table", "he_alignment"),
    ("alignment the wrong way round", invert_alignment, "he.csv", "matrix"),
    (
        "alignment of two rows",
        lambda p, c: (p / "he.csv").write_text("1,0,5\n0,1,5\n"),
        "he.csv",
        "matrix",
    ),
    (
        "`identity` for an H&E of another size",
        lambda p, c: (
            flag("he_alignment", None)(p, c),
            option("sample", "he_um_per_px", "")(p, c),
            option("sample", "he_alignment", "identity")(p, c),
            tiny_bundle.write_he(p, stated=0.2125),
        ),
        "he.ome.tif",
        "size",
    ),
    (
        "is_gene of numbers that are no flags",
        lambda p, c: edit_transcripts(p, lambda t: t.assign(is_gene=2)),
        "transcripts.parquet",
        "column is_gene",
    ),
    (
        "cell ids with a fraction",
        lambda p, c: edit_transcripts(p, lambda t: t.assign(cell_id=1.5)),
        "transcripts.parquet",
        "column cell_id",
    ),
    (
        "coordinates as words",
        lambda p, c: edit_transcripts(p, lambda t: t.assign(x_location="here")),
        "transcripts.parquet",
        "column x_location",
    ),
    (
        "a panel list that went through Excel",
        lambda p, c: (p / "panels" / "tiny.tsv").write_text("gene_symbol\tensembl_id\n1-Mar\t\n"),
        "tiny.tsv",
        "gene_symbol",
    ),
    (
        "a panel list with commas",
        lambda p, c: (p / "panels" / "tiny.tsv").write_text("gene_symbol,ensembl_id\nALPHA,\n"),
        "tiny.tsv",
        "table",
    ),
    (
        "a gene without a name",
        lambda p, c: tiny_bundle.write_panel(p / "outs", ["ALPHA", ""]),
        "gene_panel.json",
        "payload.targets",
    ),
    (
        "a cell matrix that lies in another file",
        matrix_elsewhere,
        "cell_feature_matrix.h5",
        "/matrix",
    ),
    (
        "an H&E in colours of another space",
        lambda p, c: tint(p / "he.ome.tif"),
        "he.ome.tif",
        "image",
    ),
]


def without_line(name: str, words: str) -> Callable:
    """A text file that lost the lines with these words."""

    def spoil(place, call):
        path = place / name
        kept = [line for line in path.read_text().splitlines(True) if words not in line]
        path.write_text("".join(kept))

    return spoil


SHOW_SPOTS = [
    (
        "a gene that the panel hasn't got",
        lambda p, c: c["options"].update(overlay_gene="XYZ"),
        "--options",
        "overlay_gene",
    ),
    (
        "quality numbers without those of the rows",
        without_line("qc.tsv", "rows\tpooled"),
        "qc.tsv",
        "rows, pooled",
    ),
    ("quality numbers cut off", lambda p, c: cut(p / "qc.tsv", 0.99), "qc.tsv", "last line"),
    ("no spots", lambda p, c: shutil.rmtree(p / "spots.zarr"), "spots.zarr", "spots"),
    ("an H&E cut off", lambda p, c: cut(c["flags"]["he_image"]), ".tif", ""),
]
POOL_SPOTS = [
    ("an unknown key of the preset", option("spots", "size", 55), "--options", "spots.size"),
    ("a size of 0", option("spots", "size_um", 0), "--options", "spots.size_um"),
    ("an unknown shape", option("spots", "shape", "star"), "--options", "spots.shape"),
    ("a table of centres without names", centres_without_names, "centres.tsv", "column spot"),
    (
        "a gene that the panel doesn't list",
        lambda p, c: tiny_bundle.write_panel(p / "outs", tiny_bundle.GENES[:4]),
        "transcripts.parquet",
        "feature_name",
    ),
    (
        "no spot with enough transcripts",
        option("spots", "min_transcripts", 10**6),
        "transcripts.parquet",
        "transcripts",
    ),
    (
        "an infinite coordinate",
        set_value("y_location", np.inf),
        "transcripts.parquet",
        "x_location, y_location",
    ),
]

FETCH_BUNDLE = [
    (
        "a secret with a blank in the address",
        address(bundle_url="https://example.org/outs.zip?key=${PAIRSCAPE_BLANK}"),
        "outs.zip",
        "variable PAIRSCAPE_BLANK",
    ),
    ("no known address", address(), "--options", "bundle_url"),
    ("an ftp address", address(bundle_url="ftp://example.org/outs.zip"), "outs.zip", "URL"),
    ("files of the user's own there", own_files_there, "S1", "folder"),
    ("no zip at that path", flag("archive", Path("nowhere/mine.zip")), "mine.zip", "bundle"),
    ("a zip cut off", lambda p, c: cut(p / "mine.zip"), "mine.zip", "zip"),
    (
        "a zip with a path out of its folder",
        archive_of(("outs/experiment.xenium", "{}"), ("outs/../../evil.parquet", "x")),
        "mine.zip",
        "evil.parquet",
    ),
    ("a zip without a bundle", archive_of(("a.txt", "x")), "mine.zip", "experiment.xenium"),
    (
        "a zip with two bundles",
        archive_of(("a/experiment.xenium", "{}"), ("b/experiment.xenium", "{}")),
        "mine.zip",
        "experiment.xenium",
    ),
    (
        "a zip that unpacks a thousandfold",
        archive_of(("experiment.xenium", "{}"), ("transcripts.parquet", bytes(1 << 24))),
        "mine.zip",
        "size",
    ),
]

SELECT_GENES = [
    (
        "a spots.zarr without its table",
        lambda p, c: (p / "S2" / "spots.zarr" / "tables").rename(p / "S2" / "lost"),
        "spots.zarr",
        "tables/counts",
    ),
    (
        "a sample of another panel",
        lambda p, c: (
            (p / "S2" / "spots.zarr").rename(p / "S2" / "old"),
            write_spots(p / "S2" / "spots.zarr", "S2", ["W", "X", "Y", "Z"]),
        ),
        "",
        "datasets.tiny.samples",
    ),
    (
        "fewer files than samples",
        lambda p, c: c["flags"]["spots"].pop(),
        "--spots",
        "files",
    ),
]

SPLIT_DONORS = [
    (
        "the audit of another sample",
        lambda p, c: edit_json(p / "S1.json", sample="S2"),
        "S1.json",
        "sample",
    ),
    (
        "an audit without spots",
        lambda p, c: edit_json(p / "S1.json", spots=None),
        "S1.json",
        "spots",
    ),
    (
        "a donor in two splits",
        lambda p, c: c["options"]["samples"][2].update(donor="A"),
        "--options",
        "datasets.tiny.split",
    ),
    (
        "a sample in no split",
        option("split", "test", []),
        "--options",
        "datasets.tiny.split",
    ),
    (
        "an unknown sample in a split",
        option("split", "test", ["S3", "S4"]),
        "--options",
        "datasets.tiny.split.test",
    ),
    (
        "a sample without a donor",
        lambda p, c: c["options"]["samples"][0].update(donor=""),
        "--options",
        "donor",
    ),
]

EXPORT_PAIRS = [
    (
        "genes that the spots don't have",
        lambda p, c: (p / "genes.tsv").write_text("gene_symbol\tgene_id\nPSI\t\n"),
        "spots.zarr",
        "genes",
    ),
    (
        "no gene",
        lambda p, c: (p / "genes.tsv").write_text("gene_symbol\tgene_id\n"),
        "genes.tsv",
        "gene_symbol",
    ),
    (
        "spots of another sample",
        lambda p, c: c["options"]["sample"].update(sample="S2"),
        "spots.zarr",
        "sample",
    ),
    ("a sample without H&E", flag("he_image", None), "sample table", "he_image"),
    ("a sample without alignment", flag("he_alignment", None), "sample table", "he_alignment"),
    (
        "patches that show more than the H&E",
        option("patches", "um_per_px", 50),
        "--options",
        "patches.um_per_px",
    ),
    (
        "an alignment that leads off the H&E",
        lambda p, c: (p / "alignment.csv").write_text("1.6,0,90000\n0,1.6,90000\n0,0,1\n"),
        "alignment.csv",
        "alignment",
    ),
    (
        "an unknown encoding",
        option("patches", "encoding", "gif"),
        "--options",
        "patches.encoding",
    ),
    ("an H&E cut off", lambda p, c: cut(p / "he.ome.tif", 0.6), "he.ome.tif", ""),
    (
        "labels without this sample",
        lambda p, c: c["options"].update(labels={**small_pairs.LABELS, "name": ["S2"]}),
        "--options",
        "labels.name",
    ),
]

DESCRIBE_DATASET = [
    (
        "a shard cut off",
        lambda p, c: cut(p / "shards" / "S2.arrow", 0.9),
        "S2.arrow",
        "Arrow stream",
    ),
    (
        "a shard of another format",
        lambda p, c: (p / "shards" / "S2.arrow").write_bytes(b"nonsense" * 9),
        "S2.arrow",
        "",
    ),
    (
        "shards with other label names",
        export_again(labels={**small_pairs.LABELS, "name": ["S0", "S1", "S2", "S3"]}),
        "S2.arrow",
        "labels",
    ),
    (
        "shards with other patches",
        export_again(patches={**small_pairs.PATCHES, "patch_px": 32}),
        "S2.arrow",
        "patches",
    ),
    (
        "a sample without a split",
        lambda p, c: (p / "splits.tsv").write_text(
            "".join(
                line
                for line in (p / "splits.tsv").read_text().splitlines(True)
                if not line.startswith("S3\t")
            )
        ),
        "splits.tsv",
        "sample S3",
    ),
    (
        "splits.tsv edited: a sample of train in test, too",
        lambda p, c: edit_splits(p, ""),
        "splits.tsv",
        "column split",
    ),
    (
        "splits.tsv edited with words of which leakage.tsv doesn't know",
        lambda p, c: edit_splits(p, "one patient"),
        "leakage.tsv",
        "finding",
    ),
    (
        "shards in another order than the samples",
        lambda p, c: c["flags"]["shards"].reverse(),
        "S3.arrow",
        "sample",
    ),
]

INDEX_DATASETS = [
    (
        "a card without its head",
        lambda p, c: (p / "README.md").write_text("# nothing\n"),
        "README.md",
        "front matter",
    ),
    (
        "two cards of one name",
        lambda p, c: c["flags"].update(cards=c["flags"]["cards"] * 2),
        "README.md",
        "config_name",
    ),
]

CONFIGURATION = [
    (
        "a misspelt key",
        edit_config(lambda c: c.update(overlay_genes="ALPHA")),
        "config.yaml",
        "top level",
    ),
    (
        "a misspelt spot preset",
        edit_config(lambda c: c["datasets"]["tiny"].update(spots="square5")),
        "config.yaml",
        "datasets.tiny.spots",
    ),
    (
        "a negative spot size",
        edit_config(lambda c: c["spots"]["square55"].update(size_um=-55)),
        "config.yaml",
        "spots.square55.size_um",
    ),
    (
        "a sample that the table doesn't have",
        edit_config(lambda c: c["datasets"]["tiny"]["split"].update(test=["S4"])),
        "config.yaml",
        "datasets.tiny.samples",
    ),
    (
        "a donor in two splits",
        edit_table("S3\ttiny\tC", "S3\ttiny\tA"),
        "config.yaml",
        "datasets.tiny.split",
    ),
    (
        "a sample of another panel in the dataset",
        edit_table("S3\ttiny", "S3\tlung"),
        "config.yaml",
        "datasets.tiny.samples",
    ),
    (
        "an unknown column in the sample table",
        edit_table("he_image", "he_immage"),
        "samples.tsv",
        "line 2",
    ),
    ("a sample twice", edit_table("S3\t", "S2\t"), "samples.tsv", "line 4, column sample"),
    ("spaces for a tab", edit_table("S3\ttiny", "S3    tiny"), "samples.tsv", "line 4"),
    (
        "an unknown source of a sample",
        edit_table("S3\ttiny\tC\tlocal", "S3\ttiny\tC\tdisk"),
        "samples.tsv",
        "line 4.source",
    ),
    (
        "a dataset of a sample without H&E",
        edit_table("S3\ttiny\tC\tlocal\t\t", "S3\ttiny\tC\tlocal\t\tnone"),
        "samples.tsv",
        "column he_image",
    ),
    (
        "donors that differ by case",
        edit_table("S3\ttiny\tC\t", "S3\ttiny\ta\t"),
        "samples.tsv",
        "column donor",
    ),
    (
        "a zip where it is unpacked to",
        edit_table("S3\ttiny\tC\tlocal\t", "S3\ttiny\tC\tlocal\tS3/outs.zip"),
        "samples.tsv",
        "column bundle",
    ),
]

CASES = [
    Case(program, *case)
    for program, cases in {
        "check_bundle": CHECK_BUNDLE,
        "pool_spots": POOL_SPOTS,
        "show_spots": SHOW_SPOTS,
        "fetch_bundle": FETCH_BUNDLE,
        "select_genes": SELECT_GENES,
        "split_donors": SPLIT_DONORS,
        "export_pairs": EXPORT_PAIRS,
        "describe_dataset": DESCRIBE_DATASET,
        "index_datasets": INDEX_DATASETS,
        "configuration": CONFIGURATION,
    }.items()
    for case in cases
]

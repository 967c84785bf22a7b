"""List the pairs of a dataset, for embeddings that another program makes of them.

Those then come back as an encoder (builder `given`): each row finds its pair by its name here.

IN   the dataset's shards and splits.tsv
OUT  ids.tsv: pair, sample, spot, split, centre in um and in pixels of the H&E;
     with --patches, each patch as it is stored, in <folder>/<sample>/<spot>.<jpg or png>
"""

from pathlib import Path

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.jobs import program

RESULT_VERSION = 1
COLUMNS = ("pair", "sample", "spot", "split", "x_um", "y_um", "he_x_px", "he_y_px")
ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png"}


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards"),
        splits="the dataset's splits.tsv",
        ids=program.Output("ids.tsv to write"),
        patches="optional: a folder to write the patches to",
    )

    from pairscape.dataset import pair_shards
    from pairscape.dataset.given_embeddings import pair_name
    from pairscape.dataset.splits import read_splits

    split_of = {row["sample"]: row["split"] for row in read_splits(args.splits)}
    rows = []
    for path in logs.progress(args.shards, "listing pairs", unit="sample"):
        for row in pair_shards.read_index(path).to_pylist():
            x_px, y_px = row["cell_coords"]
            known = {
                "pair": pair_name(row["sample"], row["spot"]),
                "he_x_px": x_px,
                "he_y_px": y_px,
            }
            rows.append({**row, **known, "split": split_of.get(row["sample"], "")})
        if args.patches:
            write_patches(path, Path(args.patches))
    tsv.write_tsv(args.ids, ({name: row[name] for name in COLUMNS} for row in rows), COLUMNS)
    logs.log.info("%s: %d pairs of %d samples", args.ids, len(rows), len(args.shards))


def write_patches(shard, folder: Path) -> None:
    """Write the patches of a shard, as they are stored."""
    from pairscape.dataset import pair_shards

    table = pair_shards.read_shard_table(shard).select(["sample", "spot", "image"])
    for batch in table.to_batches():
        for row in batch.to_pylist():
            content = row["image"]["bytes"]
            ending = ENDINGS.get(content[:3])
            if ending is None:
                raise InputError(
                    shard, f"image of {row['spot']}", "no JPEG or PNG", "export it again"
                )
            path = folder / row["sample"] / f"{row['spot']}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic_path(path) as temporary:
                temporary.write_bytes(content)


if __name__ == "__main__":
    program.run(main)

"""Pooling transcripts to 55 µm spots: against decoding alone, against pandas, and its memory.

The transcripts are random, in the order of fields of view, with the columns and the compression of
a bundle. Ours is ``pool_spots``: the CPU seconds are those of pooling (reading included), the memory
that of the whole program, figure and all. All sizes cover the same area.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import arguments, compare, cpu_s, finish, need_space, run_apart, watch_memory

GENES = [f"GENE{i:03d}" for i in range(480)]
CONTROLS = [f"NegControlProbe_{i:05d}" for i in range(20)]
AREA_UM = 10_000  # side: a whole slide's worth of tissue
FIELD_UM = 500
BYTES_PER_ROW = 24
MEMORY_MB = 1000
PRESETS = {
    "square55": {"shape": "square", "size_um": 55.0},
    "circle55": {"shape": "circle", "size_um": 55.0, "pitch_um": 100.0},
    "visium55": {"shape": "circle", "size_um": 55.0, "pitch_um": 100.0, "lattice": "hexagonal"},
    "hexagon55": {"shape": "hexagon", "size_um": 55.0},
    "published55": {
        **{"shape": "square", "size_um": 55.0, "frame": "he_pixels", "origin": "min_transcript"},
        **{"min_qv": 0, "min_transcripts": 1},
    },
}
TARGETS = {
    "published55": "<= 1.8"
}  # which reads the coordinates twice: its grid starts at the least


def main(argv=None):
    if (argv or sys.argv[1:])[:1] == ["work"]:
        return work(*(argv or sys.argv[1:])[1:])
    args = arguments(__doc__, scratch="folder for gigabytes of transcripts").parse_args(argv)
    few, rows, many = (10**5,) * 3 if args.quick else (10**7, 5 * 10**7, 10**8)
    times = 1 if args.quick else 3
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        need_space(scratch, many * BYTES_PER_ROW)
        bundle = make_bundle(Path(scratch) / "bundle", rows)
        decoding, pooled = [], {name: [] for name in PRESETS}
        for _ in range(times):  # in turns, so that a busy machine hits all
            decoding.append(run_apart(__file__, "work", "decode", bundle))
            for name, runs in pooled.items():
                runs.append(run_apart(__file__, "work", "pool", bundle, name))
        pooling = pooled["square55"]
        pandas = run_apart(__file__, "work", "pandas", bundle)
        if {run["pooled"] for run in (*pooling, pandas)} != {pandas["pooled"]}:
            raise SystemExit("pool_spots and pandas count differently")
        memory = {rows: pooling[-1]}
        for size in sorted({few, many} - {rows}):
            make_bundle(bundle, size)
            memory[size] = run_apart(__file__, "work", "pool", bundle)
    seconds = statistics.median(run["cpu_s"] for run in pooling)
    limit = statistics.median(run["cpu_s"] for run in decoding)
    whole = statistics.median(run["whole_cpu_s"] for run in pooling)
    size = f"{millions(rows)} transcripts, {len(GENES)} genes, {AREA_UM / 1000:g} mm a side"
    finish(
        args.results,
        "pooling",
        [
            *(
                compare(
                    f"pooling to {name} / decoding with pyarrow",
                    statistics.median(run["cpu_s"] for run in runs),
                    limit,
                    TARGETS.get(name, "<= 1.6"),
                    size,
                )
                for name, runs in pooled.items()
            ),
            compare("pooling, pandas groupby", seconds, pandas["cpu_s"], ">= 5", size),
            compare(
                "memory of pandas groupby",
                memory[rows]["anonymous_mb"],
                pandas["anonymous_mb"],
                ">= 5",
                size,
                "MB RssAnon",
            ),
            compare(
                f"memory / {MEMORY_MB} MB",
                memory[many]["anonymous_mb"],
                MEMORY_MB,
                "<= 1",
                f"{millions(many)} transcripts, whole program",
                "MB RssAnon",
            ),
            compare(
                f"memory of pooling {millions(many)} / {millions(few)}",
                memory[many]["pooling_mb"],
                memory[few]["pooling_mb"],
                "<= 1.1",
                "same area; the result, which fills up, included",
                "MB RssAnon",
            ),
            compare(
                f"memory of the program, {millions(many)} / {millions(few)}",
                memory[many]["anonymous_mb"],
                memory[few]["anonymous_mb"],
                "<= 1.1",
                "same area; a copy of the result for Zarr included",
                "MB RssAnon",
            ),
            compare(
                "pool_spots with Zarr, pandas groupby",
                whole,
                pandas["cpu_s"],
                ">= 1",
                f"{size}; imports left out",
            ),
        ],
    )


def millions(rows: int) -> str:
    return f"{rows / 1e6:g} M"


def make_bundle(folder: Path, rows: int, seed: int = 0) -> Path:
    """Write a bundle of that many random transcripts, a field of view at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    experiment = {"analysis_sw_version": "xenium-3.0.0.15", "pixel_size": 0.2125}
    (folder / "experiment.xenium").write_text(json.dumps(experiment))
    targets = [
        {"type": {"data": {"name": name, "id": f"ENSG{i:011d}"}, "descriptor": "gene"}}
        for i, name in enumerate(GENES)
    ]
    (folder / "gene_panel.json").write_text(json.dumps({"payload": {"targets": targets}}))
    rng = np.random.default_rng(seed)
    names = pa.array([*GENES, *CONTROLS])
    is_gene = np.arange(len(names)) < len(GENES)
    categories = pa.array(["predesigned_gene", "negative_control_probe"])
    # Drawing from a table of equally likely entries is ten times as fast as drawing by weights.
    profiles = rng.gamma(0.3, size=(8, len(names)))
    profiles[:, len(GENES) :] = 0.005 * profiles[:, : len(GENES)].sum(1, keepdims=True) / 20
    tables = [rng.choice(len(names), 1 << 14, p=p / p.sum()).astype(np.int16) for p in profiles]
    qualities = rng.choice([5, 12, 19, 20, 30, 40], 256, p=[0.05, 0.05, 0.05, 0.1, 0.15, 0.6])
    qualities = qualities.astype(np.float32)
    cells = pa.array(["UNASSIGNED", *(f"aaaaaaa{letter}-1" for letter in "abcdefgh")])
    fields = (AREA_UM // FIELD_UM) ** 2
    ends = np.linspace(0, rows, fields + 1).astype(int)
    writer, waiting, ready = None, [], 0
    for field in range(fields):
        count = int(ends[field + 1] - ends[field])
        corner = np.array(divmod(field, AREA_UM // FIELD_UM), np.float32) * FIELD_UM
        code = rng.choice(tables)[rng.integers(0, 1 << 14, count, np.uint16)]
        place = rng.random((3, count), np.float32)
        columns = {
            "transcript_id": np.arange(ends[field], ends[field + 1], dtype=np.uint64),
            "cell_id": pa.DictionaryArray.from_arrays(
                rng.integers(0, len(cells), count, np.int8), cells
            ),
            "overlaps_nucleus": (place[2] > 0.5).astype(np.uint8),
            "feature_name": pa.DictionaryArray.from_arrays(code, names),
            "x_location": corner[1] + place[0] * FIELD_UM,
            "y_location": corner[0] + place[1] * FIELD_UM,
            "z_location": 20 * place[2],
            "qv": qualities[rng.integers(0, 256, count, np.uint8)],
            "fov_name": pa.DictionaryArray.from_arrays(
                np.zeros(count, np.int16), pa.array([f"F{field}"])
            ),
            "nucleus_distance": place[2],
            "codeword_index": code.astype(np.int32),
            "codeword_category": pa.DictionaryArray.from_arrays(
                (~is_gene[code]).astype(np.int8), categories
            ),
            "is_gene": is_gene[code],
        }
        table = pa.table(columns)
        if writer is None:
            # As strings, like a bundle's; the dictionaries only make writing quick.
            path = folder / "transcripts.parquet"
            writer = pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False)
        waiting.append(table)
        ready += count
        if ready >= 1_000_000 or field == fields - 1:
            whole = pa.concat_tables(waiting).unify_dictionaries()
            writer.write_table(whole, row_group_size=ready)
            waiting, ready = [], 0
    writer.close()
    return folder


def work(what: str, *given: str) -> None:
    """One measurement, in a process of its own; imports and compilation are done before it."""
    print(json.dumps({"decode": _decode, "pool": _pool, "pandas": _group}[what](*given)))


def _columns(path) -> list[str]:
    import pyarrow.parquet as pq

    from pairscape.spots import lattice

    return lattice.columns_needed(pq.read_schema(path).names)


def _decode(bundle) -> dict:
    import pyarrow.parquet as pq

    path = Path(bundle) / "transcripts.parquet"
    columns, rows = _columns(path), 0
    with pq.ParquetFile(path, read_dictionary=["feature_name"]) as file:
        file.read_row_group(0, columns)
        start = cpu_s()
        # One thread: several take up to twice the CPU time for the same work.
        for batch in file.iter_batches(1 << 20, columns=columns, use_threads=False):
            rows += batch.num_rows
    return {"cpu_s": cpu_s() - start, "rows": rows}


def _pool(bundle, shape: str = "square55") -> dict:
    import pool_spots
    from pairscape.spots import pooling

    spent, held = [], []

    def timed(function):
        def call(*args, **kwargs):
            start = cpu_s()
            with watch_memory(os.getpid()) as peak:
                result = function(*args, **kwargs)
            spent.append(cpu_s() - start)
            held.append(peak[0])
            return result

        return call

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        out = [f"--{name}={scratch}/{name}" for name in ("spots", "audit", "table")]
        options = json.dumps({"spots": PRESETS[shape], "sample": {"he_alignment": "file"}})
        matrix = Path(scratch) / "alignment.csv"
        matrix.write_text("0,-2.5,40000\n2.5,0,30\n0,0,1\n")  # an H&E that lies on its side
        if PRESETS[shape].get("frame"):
            out.append(f"--he-alignment={matrix}")
        small = make_bundle(Path(scratch) / "small", 50_000)
        pool_spots.main([f"--bundle={small}", *out, "--options", options])
        pooling.pool = timed(pooling.pool)
        pooling.transcript_bounds = timed(pooling.transcript_bounds)
        start = cpu_s()
        pool_spots.main([f"--bundle={bundle}", *out, "--options", options])
        whole = cpu_s() - start
        audit = json.loads(Path(scratch, "audit").read_text())
    return {
        "cpu_s": sum(spent),
        "pooling_mb": max(held),
        "whole_cpu_s": whole,
        "pooled": audit["pooled"],
    }


def _group(bundle) -> dict:
    import pandas as pd

    path = Path(bundle) / "transcripts.parquet"
    columns = _columns(path)
    pd.DataFrame({"a": [1], "b": [1.0]}).groupby("a", observed=True).size()
    start = cpu_s()
    table = pd.read_parquet(path, columns=columns, read_dictionary=["feature_name"])
    table = table[table["is_gene"] & (table["qv"] >= 20)]
    row = (table["y_location"] // 55).astype("int32").rename("row")
    column = (table["x_location"] // 55).astype("int32").rename("column")
    counts = table.groupby([row, column, "feature_name"], observed=True).size()
    return {"cpu_s": cpu_s() - start, "pooled": int(counts.sum())}


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    main()

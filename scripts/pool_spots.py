"""Pool the transcripts of a bundle to pseudo-spots, with an account of every row that is dropped.

IN   a Xenium bundle that check_bundle has passed; its H&E and alignment where it has them
OUT  the spots (SpatialData Zarr, see pairscape.spots), the audit (JSON) and a figure (PNG)

The rules of pooling stand in pairscape.pooling.
"""

import math
from pathlib import Path

import numpy as np

from pairscape import alignment, files, pooling, program, spots
from pairscape import bundle as xenium
from pairscape.errors import InputError

RESULT_VERSION = 1
PRESET = {
    "shape": "square",
    "size_um": 55.0,
    "pitch_um": None,  # the size
    "centres": None,
    "min_qv": 20,
    "min_transcripts": 1,
}


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="optional: H&E image, for the figure",
        he_alignment="optional: matrix of H&E pixels to morphology pixels",
        spots="spots.zarr to write",
        audit="audit.json to write",
        figure="qc.png to write",
    )
    sample = args.options.get("sample", {})
    preset = _read_preset(args.options.get("spots", {}))
    experiment = xenium.read_experiment(args.bundle)
    pixel_size_um = xenium.pixel_size_um(experiment)
    panel = sorted(xenium.read_panel(args.bundle), key=lambda gene: gene["gene_symbol"])
    genes = [gene["gene_symbol"] for gene in panel]
    he_matrix = alignment.read_alignment(args.he_alignment) if args.he_alignment else None
    gene = args.options.get("overlay_gene")
    if gene and gene not in genes:
        remedy = f"name a gene of the panel, such as {genes[0]}, or none"
        raise InputError("--options", "overlay_gene", gene, remedy)
    inputs = [Path(args.bundle) / name for name in ("experiment.xenium", "gene_panel.json")]
    inputs += [Path(args.bundle) / "transcripts.parquet"]
    inputs += [Path(args.he_alignment)] if args.he_alignment else []
    layout = _lay_out(args.bundle, preset, sample, inputs)

    pooled = _pool(args.bundle, layout, genes, preset)
    per_spot = np.asarray(pooled.counts.sum(axis=1, dtype=np.int64)).ravel()
    genes_per_spot = np.diff(pooled.counts.indptr)
    audit = {
        "sample": sample.get("sample", ""),
        "spots_name": args.options.get("spots_name", ""),
        "preset": preset,
        "result_version": RESULT_VERSION,
        "software_version": xenium.software_version(experiment),
        "rows_read": pooled.rows_read,
        "pooled": pooled.pooled,
        "dropped": pooled.dropped,
        "spots": len(per_spot),
        "spots_dropped": pooled.spots_dropped,
        "spots_without_transcripts": int((per_spot == 0).sum()),
        "genes": len(genes),
        "genes_detected": len(np.unique(pooled.counts.indices)),
        "transcripts_per_spot": _distribution(per_spot),
        "genes_per_spot": _distribution(genes_per_spot),
        "overlay_gene": gene or _figure().choose_gene(pooled.counts, genes),
        "inputs": {path.name: files.sha256_file(path) for path in inputs},
    }
    attrs = {key: audit[key] for key in ("sample", "spots_name", "preset", "result_version")}
    attrs |= {
        "pixel_size_um": pixel_size_um,
        "he_matrix": he_matrix.tolist() if he_matrix is not None else None,
        "audit_sha256": files.sha256_json(audit),
    }
    spots.write_spots(
        args.spots,
        pooled.counts,
        panel,
        pooled.layout,
        shape=layout.shape,
        size_um=layout.size_um,
        pixel_size_um=pixel_size_um,
        he_matrix=he_matrix,
        attrs=attrs,
    )
    _draw(args, audit, pooled, genes, he_matrix, pixel_size_um)
    files.write_json(args.audit, audit)
    program.log.info(
        "%s: %d of %d rows pooled in %d spots (%s; median %g transcripts and %g genes a spot)",
        audit["sample"] or args.bundle,
        pooled.pooled,
        pooled.rows_read,
        audit["spots"],
        ", ".join(f"{rows} {reason}" for reason, rows in pooled.dropped.items()),
        audit["transcripts_per_spot"]["median"],
        audit["genes_per_spot"]["median"],
    )


def _read_preset(given: dict) -> dict:
    unknown = sorted(set(given) - set(PRESET))
    if unknown:
        allowed = ", ".join(PRESET)
        raise InputError("--options", f"spots.{unknown[0]}", "an unknown key", f"use {allowed}")
    preset = PRESET | given
    if preset["pitch_um"] is None:
        preset["pitch_um"] = preset["size_um"]
    for key in ("size_um", "pitch_um", "min_qv", "min_transcripts"):
        value = preset[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError("--options", f"spots.{key}", repr(value), "give a number")
    return preset


def _lay_out(bundle, preset: dict, sample: dict, inputs: list[Path]) -> pooling.Layout:
    """The layout of the preset; a file of centres joins ``inputs``."""
    centres = preset["centres"]
    if centres is None:
        bounds = pooling.transcript_bounds(bundle)
        return pooling.lattice(preset["shape"], preset["size_um"], preset["pitch_um"], bounds)
    if preset["shape"] != "circle":
        remedy = "make it circle: only circles are pooled around given centres"
        raise InputError("--options", "spots.shape", preset["shape"], remedy)
    path = Path(centres["file"].replace("{sample}", sample.get("sample", "")))
    x, y, name = (centres[key] for key in ("x", "y", "name"))
    rows = files.read_tsv(path, [x, y, name])
    try:
        xy_um = np.array([[float(row[x]), float(row[y])] for row in rows])
    except ValueError as error:
        raise InputError(path, f"{x}, {y}", str(error), "give micrometres") from None
    if not len(rows) or not np.isfinite(xy_um).all():
        raise InputError(path, f"{x}, {y}", "no finite number in some row", "give micrometres")
    names = [row[name] for row in rows]
    if len(set(names)) < len(names):
        twice = next(spot for spot in names if names.count(spot) > 1)
        raise InputError(path, name, f"{twice} twice", "give each spot a name of its own")
    inputs.append(path)
    return pooling.circles(xy_um, names, preset["size_um"])


def _pool(bundle, layout: pooling.Layout, genes: list[str], preset: dict) -> pooling.Pooled:
    with xenium.open_transcripts(bundle) as file:
        rows, names = file.metadata.num_rows, file.schema_arrow.names
    columns = ["feature_name", "x_location", "y_location", "qv", xenium.gene_column(names)]
    batches = xenium.iter_transcripts(bundle, list(dict.fromkeys(columns)))
    return pooling.pool(
        program.progress(batches, "pooling", -(-rows // xenium.BATCH_ROWS), "batch"),
        layout,
        genes,
        min_qv=preset["min_qv"],
        min_transcripts=preset["min_transcripts"],
        file=Path(bundle) / "transcripts.parquet",
    )


def _distribution(values: np.ndarray) -> dict:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {
        "mean": float(values.mean()),
        "median": median,
        "q05": low,
        "q95": high,
        "min": int(values.min()),
        "max": int(values.max()),
    }


def _figure():
    from pairscape import spot_figure

    return spot_figure


def _draw(args, audit: dict, pooled, genes: list[str], he_matrix, pixel_size_um: float) -> None:
    gene = audit["overlay_gene"]
    cell_xy_um, cell_counts = _cells(args.bundle, gene)
    he = None
    if args.he_image and he_matrix is not None:
        from pairscape.slide import thumbnail

        he = thumbnail(args.he_image, _figure().THUMBNAIL_PX)
    per_spot = audit["transcripts_per_spot"]
    with files.atomic_path(args.figure) as temporary:
        _figure().draw_spots(
            temporary,
            title=f"{audit['sample']}: {audit['spots']:,} spots, {audit['pooled']:,} of "
            f"{audit['rows_read']:,} rows pooled, median {per_spot['median']:,.0f} a spot",
            gene=gene,
            spot_xy_um=np.column_stack([pooled.layout["x_um"], pooled.layout["y_um"]]),
            spot_counts=pooled.counts[:, [genes.index(gene)]].toarray().ravel(),
            shape=audit["preset"]["shape"],
            size_um=audit["preset"]["size_um"],
            transcripts=np.asarray(pooled.counts.sum(axis=1)).ravel(),
            genes=np.diff(pooled.counts.indptr),
            cell_xy_um=cell_xy_um,
            cell_counts=cell_counts,
            he=he,
            he_matrix=he_matrix,
            pixel_size_um=pixel_size_um,
        )


def _cells(bundle, gene: str):
    """Centres and counts of the cells; None where the bundle has no usable cells."""
    try:
        cells = xenium.read_cells(bundle)
        counts = xenium.read_cell_counts(bundle, gene)
    except InputError as error:
        program.log.info("the figure has no cells (%s)", error)
        return None, None
    return (
        cells[["x_centroid", "y_centroid"]].to_numpy(float),
        counts.reindex(cells["cell_id"]).fillna(0).to_numpy(),
    )


if __name__ == "__main__":
    program.run(main)

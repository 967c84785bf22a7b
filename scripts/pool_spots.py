"""Pool the transcripts of a bundle to pseudo-spots, with an account of every row that is dropped.

IN   a Xenium bundle that check_bundle has passed; its H&E and alignment where it has them
OUT  the spots (SpatialData Zarr, see pairscape.spots.spots_zarr), the audit (JSON), and quality
     numbers (TSV, see pairscape.spots.spot_quality); show_spots draws them

The rules of pooling stand in pairscape.spots.pooling.
"""

import dataclasses
from pathlib import Path

import numpy as np

from pairscape.acquire import alignment
from pairscape.acquire import bundle as xenium
from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.jobs import program
from pairscape.spots import lattice, pooling, spot_quality, spots_zarr
from pairscape.spots.preset import SpotPreset, read_preset

RESULT_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Source:
    """A sample as it is pooled: its bundle, and its H&E with the alignment where it has them."""

    bundle: str
    name: str
    preset: SpotPreset
    pixel_size_um: float
    he_image: str | None
    he_matrix: np.ndarray | None


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="optional: H&E image, for the tissue mask",
        he_alignment="optional: matrix of H&E pixels to morphology pixels",
        spots=program.Output("spots.zarr to write"),
        audit=program.Output("audit.json to write"),
        table=program.Output("qc.tsv to write"),
    )
    experiment = xenium.read_experiment(args.bundle)
    source = _read_source(args, xenium.pixel_size_um(experiment))
    panel = sorted(xenium.read_panel(args.bundle), key=lambda gene: gene["gene_symbol"])
    genes = [gene["gene_symbol"] for gene in panel]
    read = xenium.find_panel(args.bundle), xenium.find_transcripts(args.bundle)
    inputs = [Path(args.bundle) / "experiment.xenium", *read]
    inputs += [Path(args.he_alignment)] if args.he_alignment else []
    within = source.preset.assigned == "cells_within"
    cells = _read_centroids(args.bundle, inputs) if within else None
    layout = _lay_out(source, cells, inputs)
    mask = _tissue_mask(source)

    pooled = _pool(source, layout, genes, cells, mask)
    per_spot = np.asarray(pooled.counts.sum(axis=1, dtype=np.int64)).ravel()
    audit = {
        "sample": source.name,
        "spots_name": args.options.get("spots_name", ""),
        "preset": dataclasses.asdict(source.preset),
        "result_version": RESULT_VERSION,
        "software_version": xenium.software_version(experiment),
        "rows_read": pooled.rows_read,
        "pooled": pooled.pooled,
        "dropped": pooled.dropped,
        "spots": len(per_spot),
        "spots_dropped": pooled.spots_dropped,
        "spots_without_tissue": pooled.spots_without_tissue,
        "spots_without_transcripts": int((per_spot == 0).sum()),
        "genes": len(genes),
        "genes_detected": len(np.unique(pooled.counts.indices)),
        "transcripts_per_spot": _distribution(per_spot),
        "genes_per_spot": _distribution(np.diff(pooled.counts.indptr)),
        "lattice": _describe_lattice(layout),
        "tissue": {"threshold": mask.threshold, "he_px_per_px": mask.scale} if mask else None,
        "inputs": {path.name: files.sha256_file(path) for path in inputs},
    }
    _write_spots(args.spots, source, panel, audit, pooled, layout)
    cell_sums = spot_quality.cell_sums(args.bundle, genes)
    rows = spot_quality.summarise(audit, pooled.counts, cell_sums)
    spot_quality.QUALITY.write(args.table, rows)
    files.write_json(args.audit, audit)
    _say(source.name or args.bundle, pooled, audit)


def _say(name: str, pooled, audit: dict) -> None:
    logs.log.info(
        "%s: %d of %d rows pooled in %d spots (%s; median %g transcripts and %g genes a spot)",
        name,
        pooled.pooled,
        pooled.rows_read,
        audit["spots"],
        ", ".join(f"{rows} {reason}" for reason, rows in pooled.dropped.items()),
        audit["transcripts_per_spot"]["median"],
        audit["genes_per_spot"]["median"],
    )


def _read_source(args, pixel_size_um: float) -> Source:
    """The sample and its preset, and the alignment where there is an H&E or a preset asks for it."""
    sample, preset = args.options.get("sample", {}), read_preset(args.options.get("spots", {}))
    name, he_matrix = sample.get("sample", ""), None
    if preset.min_tissue is not None and not args.he_image:
        lacks = f"{preset.min_tissue:g}, but sample {name} has no H&E"
        remedy = "make it null, or give the H&E of that sample"
        raise InputError("--options", "spots.min_tissue", lacks, remedy)
    if args.he_image or args.he_alignment:
        stated = None
        if sample.get("he_alignment") == "microns" and args.he_image:
            from pairscape.images.tiff import um_per_px

            stated = um_per_px(args.he_image)
        aligned = alignment.resolve_alignment(args.he_alignment, sample, pixel_size_um, stated)
        he_matrix = aligned.matrix
    elif preset.frame == "he_pixels":
        lacks = f"he_pixels, but sample {name} has no H&E"
        remedy = "make it xenium_um, or give the H&E and its alignment"
        raise InputError("--options", "spots.frame", lacks, remedy)
    return Source(args.bundle, name, preset, pixel_size_um, args.he_image, he_matrix)


def _read_centroids(bundle, inputs: list[Path]):
    """Ids and centroids (C, 2) µm of the cells; their file joins ``inputs``."""
    cells = xenium.read_cells(bundle)
    path = Path(bundle) / "cells.parquet"
    inputs.append(path if path.is_file() else Path(bundle) / "cells.csv.gz")
    centroids_um = cells[["x_centroid", "y_centroid"]].to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(centroids_um).all(axis=1))
    if len(wrong):
        field = f"cell {cells['cell_id'].iloc[wrong[0]]}, x_centroid, y_centroid"
        raise InputError(inputs[-1], field, "no finite number", xenium.DAMAGED)
    return cells["cell_id"].tolist(), centroids_um


def _lay_out(source: Source, cells, inputs: list[Path]) -> lattice.Layout:
    """The layout of the preset; a file of centres joins ``inputs``."""
    preset = source.preset
    if preset.centres is not None:
        return _read_centres(source, inputs)
    frame = lattice.xenium_frame()
    if preset.frame == "he_pixels":
        frame = lattice.he_frame(source.he_matrix, source.pixel_size_um)
    bounds = pooling.transcript_bounds(source.bundle, frame)
    if preset.origin == "min_transcript":
        # Of all rows: the published data were pooled before controls were taken out.
        frame = frame._replace(origin=np.array(bounds[:2]))
        bounds = (0.0, 0.0, bounds[2] - bounds[0], bounds[3] - bounds[1])
    if cells is not None:
        bounds = lattice.widen_bounds(bounds, cells[1], frame)
    size_um, pitch_um = preset.size_um, preset.pitch_um
    return lattice.lattice(preset.shape, size_um, pitch_um, bounds, preset.lattice, frame)


def _read_centres(source: Source, inputs: list[Path]) -> lattice.Layout:
    centres = source.preset.centres
    if source.preset.shape != "circle":
        remedy = "make it circle: only circles are pooled around given centres"
        raise InputError("--options", "spots.shape", source.preset.shape, remedy)
    path = Path(centres["file"].replace("{sample}", source.name))
    x, y, name = (centres[key] for key in ("x", "y", "name"))
    rows = tsv.read_tsv(path, [x, y, name])
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
    return lattice.circles(xy_um, names, source.preset.size_um)


def _tissue_mask(source: Source):
    """The mask of tissue on the H&E, where the preset asks for it, else None."""
    if source.preset.min_tissue is None or not source.he_image or source.he_matrix is None:
        return None
    from pairscape.images import tissue

    um_per_px = alignment.decompose(source.he_matrix, source.pixel_size_um)["um_per_px"]
    return tissue.tissue_mask(*tissue.picture(source.he_image, um_per_px))


def _pool(source: Source, layout: lattice.Layout, genes: list[str], cells, mask) -> pooling.Pooled:
    bundle, assigned = source.bundle, source.preset.assigned
    columns = lattice.columns_needed(xenium.transcript_columns(bundle), assigned)
    rows = xenium.transcript_rows(bundle)
    total = -(-rows // xenium.BATCH_ROWS) if rows else None
    return pooling.pool(
        logs.progress(xenium.iter_transcripts(bundle, columns), "pooling", total, "batch"),
        layout,
        genes,
        source.preset,
        cells=cells,
        tissue_of=_tissue_of(mask, layout, source) if mask else None,
        file=xenium.find_transcripts(bundle),
    )


def _tissue_of(mask, layout: lattice.Layout, source: Source):
    """The function that gives the share of tissue of spots by their centres, (N, 2) µm."""
    from pairscape.images import tissue

    placing = source.he_matrix, source.pixel_size_um
    linear = alignment.um_to_he_matrix(*placing)[:2, :2]
    offsets_px = lattice.inner_points_um(layout) @ linear.T
    return lambda xy_um: tissue.tissue_fraction(
        mask, alignment.um_to_he_px(*placing, xy_um), offsets_px
    )


def _describe_lattice(layout: lattice.Layout) -> dict | None:
    """What places the lattice: units are ``to_units @ (x_um, y_um, 1) - origin``."""
    if layout.names:
        return None
    frame = layout.frame
    return {
        "arrangement": layout.lattice,
        "to_units": frame.to_units.tolist(),
        "origin": np.asarray(frame.origin, float).tolist(),
        "um_per_unit": frame.unit_um,
        "pitch": layout.grid.pitch,
    }


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


def _write_spots(path, source: Source, panel: list[dict], audit: dict, pooled, layout) -> None:
    keys = ("sample", "spots_name", "preset", "result_version", "lattice")
    he_matrix, pixel_size_um = source.he_matrix, source.pixel_size_um
    spots_zarr.write_spots(
        path,
        pooled,
        panel,
        size_um=layout.size_um,
        corners_um=lattice.outline_um(layout),
        pixel_size_um=pixel_size_um,
        he_matrix=he_matrix,
        attrs={
            **{key: audit[key] for key in keys},
            "pixel_size_um": pixel_size_um,
            "he_matrix": he_matrix.tolist() if he_matrix is not None else None,
            "audit_sha256": files.sha256_json(audit),
        },
    )


if __name__ == "__main__":
    program.run(main)

"""Pool the transcripts of a bundle to pseudo-spots, with an account of every row that is dropped.

IN   a Xenium bundle that check_bundle has passed; its H&E and alignment where it has them
OUT  the spots (SpatialData Zarr, see pairscape.spots.spots_zarr), the audit (JSON), and quality
     numbers as table (TSV, see pairscape.spots.spot_quality) and figure (PNG)

The rules of pooling stand in pairscape.spots.pooling.
"""

import math
from pathlib import Path

import numpy as np

from pairscape.acquire import alignment
from pairscape.acquire import bundle as xenium
from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.jobs import program
from pairscape.spots import lattice, pooling, spot_quality, spots_zarr

RESULT_VERSION = 2
PRESET = {
    "shape": "square",
    "size_um": 55.0,
    "pitch_um": None,  # the size
    "lattice": None,  # that of the shape
    "frame": "xenium_um",
    "origin": "zero",
    "centres": None,
    "assigned": "all",
    "min_qv": 20,
    "min_transcripts": 1,
    "min_tissue": None,  # no mask
}
WORDS = {
    "shape": tuple(lattice.LATTICES),
    "lattice": (None, "square", "hexagonal"),
    "frame": ("xenium_um", "he_pixels"),
    "origin": ("zero", "min_transcript"),
    "assigned": pooling.ASSIGNED,
}


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="optional: H&E image, for the tissue mask and the figure",
        he_alignment="optional: matrix of H&E pixels to morphology pixels",
        spots=program.Output("spots.zarr to write"),
        audit=program.Output("audit.json to write"),
        table=program.Output("qc.tsv to write"),
        figure=program.Output("qc.png to write"),
    )
    sample = args.options.get("sample", {})
    preset = _read_preset(args.options.get("spots", {}))
    experiment = xenium.read_experiment(args.bundle)
    pixel_size_um = xenium.pixel_size_um(experiment)
    panel = sorted(xenium.read_panel(args.bundle), key=lambda gene: gene["gene_symbol"])
    genes = [gene["gene_symbol"] for gene in panel]
    he_matrix = _he_matrix(args, sample, preset, pixel_size_um)
    gene = args.options.get("overlay_gene")
    if gene and gene not in genes:
        remedy = f"name a gene of the panel, such as {genes[0]}, or none"
        raise InputError("--options", "overlay_gene", gene, remedy)
    inputs = [Path(args.bundle) / "experiment.xenium", xenium.find_panel(args.bundle)]
    inputs += [xenium.find_transcripts(args.bundle)]
    inputs += [Path(args.he_alignment)] if args.he_alignment else []
    cells = None
    if preset["assigned"] == "cells_within":
        cells = _read_centroids(args.bundle, inputs)
    layout = _lay_out(args.bundle, preset, sample, he_matrix, pixel_size_um, cells, inputs)
    picture, mask = _look_at_he(args, preset, he_matrix, pixel_size_um)
    tissue_of = _tissue_of(mask, layout, he_matrix, pixel_size_um) if mask else None

    pooled = _pool(args.bundle, layout, genes, preset, cells, tissue_of)
    per_spot = np.asarray(pooled.counts.sum(axis=1, dtype=np.int64)).ravel()
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
        "spots_without_tissue": pooled.spots_without_tissue,
        "spots_without_transcripts": int((per_spot == 0).sum()),
        "genes": len(genes),
        "genes_detected": len(np.unique(pooled.counts.indices)),
        "transcripts_per_spot": _distribution(per_spot),
        "genes_per_spot": _distribution(np.diff(pooled.counts.indptr)),
        "lattice": _describe_lattice(layout),
        "tissue": {"threshold": mask.threshold, "he_px_per_px": mask.scale} if mask else None,
        "overlay_gene": gene or _figure().choose_gene(pooled.counts, genes),
        "inputs": {path.name: files.sha256_file(path) for path in inputs},
    }
    attrs = {
        key: audit[key] for key in ("sample", "spots_name", "preset", "result_version", "lattice")
    }
    attrs |= {
        "pixel_size_um": pixel_size_um,
        "he_matrix": he_matrix.tolist() if he_matrix is not None else None,
        "audit_sha256": files.sha256_json(audit),
    }
    cell_sums = _cell_sums(args.bundle, genes)
    spots_zarr.write_spots(
        args.spots,
        pooled.counts,
        panel,
        pooled.layout,
        shape=layout.shape,
        size_um=layout.size_um,
        pixel_size_um=pixel_size_um,
        he_matrix=he_matrix,
        attrs=attrs,
        corners_um=lattice.outline_um(layout),
    )
    rows = spot_quality.summarise(audit, pooled.counts, cell_sums)
    tsv.write_tsv(args.table, rows, spot_quality.COLUMNS)
    _draw(args, audit, pooled, layout, genes, rows, cell_sums, picture, he_matrix, pixel_size_um)
    files.write_json(args.audit, audit)
    logs.log.info(
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
    for key, allowed in WORDS.items():
        if preset[key] not in allowed:
            words = ", ".join(word for word in allowed if word)
            raise InputError("--options", f"spots.{key}", preset[key], f"use one of {words}")
    numbers = ["size_um", "pitch_um", "min_qv", "min_transcripts"]
    for key in numbers + (["min_tissue"] if preset["min_tissue"] is not None else []):
        value = preset[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError("--options", f"spots.{key}", repr(value), "give a number")
    if preset["centres"]:
        for key in ("lattice", "frame", "origin", "min_tissue"):
            if preset[key] != PRESET[key]:
                raise InputError(
                    "--options",
                    f"spots.{key}",
                    f"{preset[key]} beside given centres",
                    "drop it: given centres are all kept, where they are",
                )
    elif preset["lattice"] is None:
        preset["lattice"] = lattice.LATTICES[preset["shape"]][0]
    return preset


def _he_matrix(args, sample: dict, preset: dict, pixel_size_um: float) -> np.ndarray | None:
    """The alignment of the H&E; None where there is no H&E and nothing asks for it."""
    name = sample.get("sample", "")
    if preset["min_tissue"] is not None and not args.he_image:
        raise InputError(
            "--options",
            "spots.min_tissue",
            f"{preset['min_tissue']:g}, but sample {name} has no H&E",
            "make it null, or give the H&E of that sample",
        )
    if not (args.he_image or args.he_alignment):
        if preset["frame"] == "he_pixels":
            raise InputError(
                "--options",
                "spots.frame",
                f"he_pixels, but sample {name} has no H&E",
                "make it xenium_um, or give the H&E and its alignment",
            )
        return None
    stated = None
    if sample.get("he_alignment") == "microns" and args.he_image:
        from pairscape.images.tiff import um_per_px

        stated = um_per_px(args.he_image)
    return alignment.resolve_alignment(args.he_alignment, sample, pixel_size_um, stated).matrix


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


def _lay_out(
    bundle, preset: dict, sample: dict, he_matrix, pixel_size_um: float, cells, inputs: list[Path]
) -> lattice.Layout:
    """The layout of the preset; a file of centres joins ``inputs``."""
    centres = preset["centres"]
    if centres is None:
        frame = lattice.xenium_frame()
        if preset["frame"] == "he_pixels":
            frame = lattice.he_frame(he_matrix, pixel_size_um)
        bounds = pooling.transcript_bounds(bundle, frame)
        if preset["origin"] == "min_transcript":
            # Of all rows: the published data were pooled before controls were taken out.
            frame = frame._replace(origin=np.array(bounds[:2]))
            bounds = (0.0, 0.0, bounds[2] - bounds[0], bounds[3] - bounds[1])
        if cells is not None:
            bounds = lattice.widen_bounds(bounds, cells[1], frame)
        return lattice.lattice(
            preset["shape"],
            preset["size_um"],
            preset["pitch_um"],
            bounds,
            preset["lattice"],
            frame,
        )
    if preset["shape"] != "circle":
        remedy = "make it circle: only circles are pooled around given centres"
        raise InputError("--options", "spots.shape", preset["shape"], remedy)
    path = Path(centres["file"].replace("{sample}", sample.get("sample", "")))
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
    return lattice.circles(xy_um, names, preset["size_um"])


def _look_at_he(args, preset: dict, he_matrix, pixel_size_um: float):
    """A picture of the H&E for the figure, with its scale, and the tissue mask; None for none."""
    if not args.he_image or he_matrix is None:
        return None, None
    from PIL import Image

    from pairscape.images import tissue
    from pairscape.images.tiff import TiffImage

    with TiffImage(args.he_image, cache_bytes=0) as image:
        if preset["min_tissue"] is None:
            return image.thumbnail(_figure().THUMBNAIL_PX), None
        um_per_px = alignment.decompose(he_matrix, pixel_size_um)["um_per_px"]
        picture, scale = image.thumbnail(tissue.mask_side_px(image.width, image.height, um_per_px))
    mask = tissue.tissue_mask(picture, scale)
    reduction = math.ceil(max(picture.shape[:2]) / _figure().THUMBNAIL_PX)
    return (np.asarray(Image.fromarray(picture).reduce(reduction)), scale * reduction), mask


def _tissue_of(mask, layout: lattice.Layout, he_matrix: np.ndarray, pixel_size_um: float):
    """The function that gives the share of tissue of spots by their centres, (N, 2) µm."""
    from pairscape.images import tissue

    linear = alignment.um_to_he_matrix(he_matrix, pixel_size_um)[:2, :2]
    offsets_px = lattice.inner_points_um(layout) @ linear.T
    return lambda xy_um: tissue.tissue_fraction(
        mask, alignment.um_to_he_px(he_matrix, pixel_size_um, xy_um), offsets_px
    )


def _pool(bundle, layout: lattice.Layout, genes: list[str], preset: dict, cells, tissue_of):
    columns = lattice.columns_needed(xenium.transcript_columns(bundle), preset["assigned"])
    batches = xenium.iter_transcripts(bundle, columns)
    rows = xenium.transcript_rows(bundle)
    total = -(-rows // xenium.BATCH_ROWS) if rows else None
    return pooling.pool(
        logs.progress(batches, "pooling", total, "batch"),
        layout,
        genes,
        min_qv=preset["min_qv"],
        min_transcripts=preset["min_transcripts"],
        assigned=preset["assigned"],
        cells=cells,
        tissue_of=tissue_of,
        min_tissue=preset["min_tissue"] or 0,
        file=xenium.find_transcripts(bundle),
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


def _figure():
    from pairscape.spots import spot_figure

    return spot_figure


def _draw(
    args,
    audit: dict,
    pooled,
    layout: lattice.Layout,
    genes: list[str],
    rows: list[dict],
    cell_sums,
    picture,
    he_matrix,
    pixel_size_um: float,
) -> None:
    gene = audit["overlay_gene"]
    cell_xy_um, cell_counts = _cells(args.bundle, gene)
    per_spot = audit["transcripts_per_spot"]
    with files.atomic_path(args.figure) as temporary:
        _figure().draw_spots(
            temporary,
            title=f"{audit['sample']}: {audit['spots']:,} spots, {audit['pooled']:,} of "
            f"{audit['rows_read']:,} rows pooled, median {per_spot['median']:,.0f} a spot",
            gene=gene,
            spot_xy_um=np.column_stack([pooled.layout["x_um"], pooled.layout["y_um"]]),
            spot_counts=pooled.counts[:, [genes.index(gene)]].toarray().ravel(),
            shape=layout.shape,
            size_um=layout.size_um,
            corners_um=lattice.outline_um(layout),
            transcripts=np.asarray(pooled.counts.sum(axis=1)).ravel(),
            genes=np.diff(pooled.counts.indptr),
            cell_sums=cell_sums,
            distances={
                row["measure"]: float(row["value"])
                for row in rows
                if row["of"] == "spots_vs_cells" and row["value"] is not None
            },
            cell_xy_um=cell_xy_um,
            cell_counts=cell_counts,
            he=picture,
            he_matrix=he_matrix,
            pixel_size_um=pixel_size_um,
        )


def _cells(bundle, gene: str):
    """Centres and counts of the cells; None where the bundle has no usable cells."""
    try:
        cells = xenium.read_cells(bundle)
        counts = xenium.read_cell_counts(bundle, gene)
    except InputError as error:
        logs.log.info("the figure has no cells (%s)", error)
        return None, None
    return (
        cells[["x_centroid", "y_centroid"]].to_numpy(float),
        counts.reindex(cells["cell_id"]).fillna(0).to_numpy(),
    )


def _cell_sums(bundle, genes: list[str]):
    """The sums of the cells; None where the bundle has no usable cell matrix."""
    try:
        return spot_quality.read_cell_sums(bundle, genes)
    except InputError as error:
        logs.log.info("spots aren't compared with cells (%s)", error)
        return None


if __name__ == "__main__":
    program.run(main)

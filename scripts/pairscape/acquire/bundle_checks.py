"""What can be wrong with a bundle, its H&E and its alignment, found before anything long starts.

A finding is a dictionary: ``level`` (error, warning, note), ``file``, ``field``, ``found``,
``expected``, ``remedy``. An error means that spots or pairs would be wrong or can't be made.
"""

import csv
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairscape.acquire import bundle as xenium
from pairscape.acquire.alignment import decompose, resolve_alignment, um_to_he_px
from pairscape.core.errors import InputError
from pairscape.core.files import read_tsv
from pairscape.jobs.program import progress

LEVELS = ("error", "warning", "note")
GOOD_QV = 20  # 10x Genomics counts transcripts from this Phred value on
QV_RANGE = (0, 40)
MAX_SIZE_GAP = 0.02  # between two statements of the same pixel size
MAX_ANISOTROPY = 1.02
NEWEST_VERSION = 4  # of the software whose bundles are known here
TILES_TRIED = 4  # along each side of the H&E
MORPHOLOGY_TILES_TRIED = 6
MAX_CHUNK_BYTES = 1 << 28  # a strip beyond it isn't decoded to try it
IDS_KEPT = 1 << 22  # transcript ids that are compared with each other
SAMPLED_ROWS = 20_000  # of each sampled place of the table
MAX_CELL_UM = 50  # from the centre of a cell to its farthest common transcripts

# Pairs can be made without these. The figure's cells come from the first two; other tools need the
# others.
COMPANIONS = {
    "cells.parquet": "warning",
    "cell_feature_matrix.h5": "warning",
    "cell_boundaries.parquet": "note",
    "nucleus_boundaries.parquet": "note",
    "cells.zarr.zip": "note",
    "metrics_summary.csv": "note",
}


def check_bundle(
    bundle, sample: dict, *, he_image=None, he_alignment=None, expected_genes=None, panel_file=None
) -> dict:
    """Examine a bundle and what belongs to it, in bounded memory.

    Parameters
    ----------
    bundle
        The bundle's folder.
    sample
        Its row of the sample table.
    he_image, he_alignment
        Paths, or None where the sample has none.
    expected_genes
        Gene symbol -> Ensembl id of the panel that the sample is said to have, or None.
    panel_file
        Where ``expected_genes`` come from, for messages.

    Returns
    -------
    The report: ``sample``, ``verdict`` (the worst of ok, warning, error), ``findings`` (errors
    first), ``facts``.
    """
    findings: list[dict] = []
    facts: dict = {"bundle": str(bundle)}

    def attempt(function, *args):
        try:
            return function(findings, facts, *args)
        except InputError as error:
            findings.append(_finding("error", error.file, error.field, error.found, error.remedy))
            return None

    if not Path(bundle).is_dir():
        found = "a file" if Path(bundle).is_file() else "nothing"
        name = sample.get("sample", "")
        remedy = f"put the bundle there or correct column bundle of sample {name} in its table"
        findings.append(_finding("error", bundle, "bundle", found, remedy, "a folder"))
        return _report(sample, findings, facts)
    experiment = attempt(_check_experiment, bundle)
    genes = attempt(_check_panel, bundle, sample, expected_genes, panel_file)
    attempt(_check_companions, bundle)
    cells = attempt(_check_cells, bundle, experiment) if "cells" in facts else None
    attempt(_check_matrix, bundle, genes, cells)
    image_size = attempt(_check_morphology, bundle, experiment or {})
    he_size = stated_um = None
    if he_image:
        he_size, stated_um = attempt(_check_he_image, he_image, sample) or (None, None)
    pixel_size = xenium.pixel_size_um(experiment) if experiment else None
    matrix = None
    if pixel_size and (he_image or he_alignment):
        matrix = attempt(_check_alignment, he_image, he_alignment, pixel_size, stated_um, sample)
    if he_size and image_size and sample.get("he_alignment") == "identity":
        attempt(_check_identity, he_image, he_size, image_size, sample)
    attempt(_check_transcripts, bundle, genes, pixel_size, image_size, matrix, he_size, he_image)
    attempt(_check_transcripts_of_cells, bundle, cells)
    if sample.get("panel") and not expected_genes:
        findings.append(
            _finding(
                "note",
                "sample table",
                f"panel of sample {sample.get('sample', '')}",
                f"{sample['panel']}, which has no gene list",
                "correct it, or add its list where other panels' lists are to use it in a dataset",
            )
        )
    if not he_image:
        findings.append(
            _finding(
                "note",
                bundle,
                "H&E image",
                "none",
                "pool spots from it; name an H&E image in he_image to make pairs from it",
                "an H&E image",
            )
        )
    return _report(sample, findings, facts)


def describe(finding: dict) -> str:
    """A finding as one line, without its level."""
    expected = f", expected {finding['expected']}" if finding["expected"] else ""
    place, found = f"{finding['file']}: {finding['field']}", finding["found"]
    return f"{place}: found {found}{expected}; {finding['remedy']}"


def _finding(level, file, field, found, remedy, expected="") -> dict:
    values = {"file": file, "field": field, "found": found, "expected": expected, "remedy": remedy}
    return {"level": level} | {name: " ".join(str(v).split()) for name, v in values.items()}


def _report(sample: dict, findings: list[dict], facts: dict) -> dict:
    findings.sort(key=lambda finding: LEVELS.index(finding["level"]))
    worst = findings[0]["level"] if findings else "note"
    return {
        "sample": sample.get("sample", ""),
        "verdict": "ok" if worst == "note" else worst,
        "findings": findings,
        "facts": facts,
    }


def _check_experiment(findings, facts, bundle) -> dict:
    experiment = xenium.read_experiment(bundle)
    facts["software_version"] = xenium.software_version(experiment)
    facts["pixel_size_um"] = xenium.pixel_size_um(experiment)
    facts["panel_name"] = str(experiment.get("panel_name") or "")
    facts["region_name"] = str(experiment.get("region_name") or "")
    path = Path(bundle) / "experiment.xenium"
    try:
        version = xenium.format_version(experiment, path)
    except InputError as error:  # nothing that is read depends on the stated version
        findings.append(_finding("warning", error.file, error.field, error.found, error.remedy))
        return experiment
    facts["format_version"] = list(version)
    if version[0] > NEWEST_VERSION:
        findings.append(
            _finding(
                "warning",
                path,
                "software version",
                facts["software_version"],
                "look at the spots with care: this layout may hold what isn't known here",
                f"up to {NEWEST_VERSION}.x",
            )
        )
    return experiment


def _check_panel(findings, facts, bundle, sample, expected: dict | None, panel_file) -> set[str]:
    panel = {gene["gene_symbol"]: gene["gene_id"] for gene in xenium.read_panel(bundle)}
    path = xenium.find_panel(bundle)
    facts["panel_genes"] = len(panel)
    facts["panel_from"] = path.name
    if path.name != "gene_panel.json":
        findings.append(
            _finding(
                "note",
                Path(bundle) / "gene_panel.json",
                "file",
                "nothing",
                f"nothing to do: the genes are taken from {path.name}",
                "the file",
            )
        )
    if expected:
        missing = sorted(set(expected) - set(panel))
        shared = len(expected) - len(missing)
        facts["panel_genes_expected"], facts["panel_genes_shared"] = len(expected), shared
        where = f"the {len(expected)} genes of {panel_file or 'the panel'}"
        if 2 * shared < len(expected):
            better = _fitting_panel(panel_file, panel)
            name = sample.get("sample", "")
            findings.append(
                _finding(
                    "error",
                    path,
                    "genes",
                    f"{shared} of {len(expected)} ({facts.get('panel_name') or 'unnamed panel'})",
                    f"correct column panel of sample {name} in the sample table"
                    + (f": {better} fits" if better else ", or drop it from the dataset"),
                    where,
                )
            )
        elif missing:
            findings.append(
                _finding(
                    "warning",
                    path,
                    "genes",
                    f"all but {len(missing)} ({_few(missing)})",
                    "expect a dataset without these genes, or drop the sample from it",
                    where,
                )
            )
        other = [g for g in expected if expected[g] and panel.get(g) and panel[g] != expected[g]]
        if other:
            findings.append(
                _finding(
                    "warning",
                    path,
                    "Ensembl ids",
                    f"others for {len(other)} genes ({_few(other)})",
                    "make sure that both speak of the same species and annotation",
                    "those of " + str(panel_file or "the panel"),
                )
            )
    return set(panel)


def _fitting_panel(panel_file, genes) -> str | None:
    """The list beside ``panel_file`` with most of the genes, if that is nearly all of them."""
    shares = {}
    for path in sorted(Path(panel_file).parent.glob("*.tsv")) if panel_file else []:
        try:
            listed = {row["gene_symbol"] for row in read_tsv(path, ["gene_symbol"])}
        except InputError:
            continue
        if listed:
            shares[path.stem] = len(listed & set(genes)) / len(listed), len(listed)
    best = max(shares, key=shares.get, default=None)
    return best if best and shares[best][0] > 0.95 else None


def _check_companions(findings, facts, bundle) -> None:
    import h5py
    import pyarrow.parquet as pq

    for name, level in COMPANIONS.items():
        path = Path(bundle) / name
        if not path.is_file():
            if name == "cells.parquet" and (Path(bundle) / "cells.csv.gz").is_file():
                facts["cells"] = None  # counted when they are read
                continue
            findings.append(
                _finding(level, path, "file", "nothing", "fetch the whole bundle again", "the file")
            )
            continue
        try:
            if name.endswith(".parquet"):
                rows = pq.ParquetFile(path).metadata.num_rows
                if name == "cells.parquet":
                    facts["cells"] = rows
            elif name.endswith(".h5"):
                h5py.File(path).close()
            elif name.endswith(".zip"):
                zipfile.ZipFile(path).close()
        except (pa.ArrowInvalid, OSError, zipfile.BadZipFile) as error:
            findings.append(_finding("error", path, "file", error, xenium.DAMAGED, "a whole file"))


def _check_cells(findings, facts, bundle, experiment):
    """The cells (id, centroids, transcripts) as a table, checked."""
    cells = xenium.read_cells(bundle)
    facts["cells"] = len(cells)
    path = Path(bundle) / "cells.parquet"
    lost = int((~np.isfinite(cells[["x_centroid", "y_centroid"]].to_numpy(float))).any(1).sum())
    if lost:
        findings.append(
            _finding(
                "error",
                path,
                "x_centroid, y_centroid",
                f"{lost} missing",
                xenium.DAMAGED,
                "numbers",
            )
        )
    if not cells["cell_id"].is_unique:
        twice = cells["cell_id"][cells["cell_id"].duplicated()]
        found = f"{len(twice)} ids twice ({_few(list(twice))})"
        findings.append(_finding("error", path, "cell_id", found, xenium.DAMAGED, "each id once"))
    stated = (experiment or {}).get("num_cells")
    if isinstance(stated, int) and stated != len(cells):
        findings.append(
            _finding(
                "warning",
                path,
                "rows",
                len(cells),
                "make sure that all files come from one run of the software",
                f"{stated} (num_cells of experiment.xenium)",
            )
        )
    return cells


def _check_matrix(findings, facts, bundle, genes, cells) -> None:
    """The features and cells of the cell matrix against the panel and the cells."""
    import h5py

    path = Path(bundle) / "cell_feature_matrix.h5"
    if not h5py.is_hdf5(path):
        return  # missing or damaged, which is told already
    counted = set(xenium.feature_genes(xenium.read_features(bundle)))
    with h5py.File(path) as file:
        columns = file["matrix/barcodes"].shape[0] if "matrix/barcodes" in file else None
    remedy = "make sure that all files come from one run of the software"
    if genes and counted != genes:
        gone, more = sorted(genes - counted), sorted(counted - genes)
        found = f"{len(counted)} genes, without {len(gone)} ({_few(gone)})" if gone else ""
        found = found or f"{len(counted)} genes, {len(more)} more ({_few(more)})"
        level = "error" if len(genes & counted) < len(genes) / 2 else "warning"
        expected = f"the {len(genes)} genes of {facts['panel_from']}"
        findings.append(_finding(level, path, "matrix/features", found, remedy, expected))
    if cells is not None and columns not in (None, len(cells)):
        found = f"{columns} cells"
        expected = f"{len(cells)} (rows of cells.parquet)"
        findings.append(_finding("warning", path, "matrix/barcodes", found, remedy, expected))


def _check_morphology(findings, facts, bundle, experiment: dict) -> tuple[int, int] | None:
    """Width and height of the morphology image; of each channel a few tiles are decoded."""
    paths = xenium.morphology_files(bundle, experiment)
    facts["morphology_files"] = [str(path.relative_to(bundle)) for path in paths]
    if not paths:
        findings.append(
            _finding(
                "warning",
                Path(bundle) / "morphology_focus",
                "image",
                "nothing",
                "fetch the whole bundle again",
                "the morphology image",
            )
        )
        return None
    sizes = {}
    for path in paths:
        size, um_per_px = _read_channel(path)
        sizes[path.name] = size
        pixel_size = facts.get("pixel_size_um")
        if um_per_px and pixel_size and abs(um_per_px / pixel_size - 1) > MAX_SIZE_GAP:
            findings.append(
                _finding(
                    "error",
                    path,
                    "PhysicalSizeX",
                    f"{um_per_px:g} um",
                    "make sure that image and experiment.xenium are of one bundle",
                    f"{pixel_size:g} um (pixel_size of experiment.xenium)",
                )
            )
    size = sizes[paths[0].name]
    for path in paths[1:]:
        if sizes[path.name] != size:
            findings.append(
                _finding(
                    "error",
                    path,
                    "size",
                    "{} x {} px".format(*sizes[path.name]),
                    "make sure that all channels are of one bundle",
                    "{} x {} px as in {}".format(*size, paths[0].name),
                )
            )
    facts["morphology_size_px"] = list(size)
    return size


def _read_channel(path) -> tuple[tuple[int, int], float | None]:
    """Size and stated µm per pixel of a morphology file; a seeded sample of tiles is decoded."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            size = page.imagewidth, page.imagelength
            chunks = [
                (offset + count)
                for level in (page, *(page.pages or ()))
                for offset, count in zip(level.dataoffsets, level.databytecounts, strict=True)
            ]
            if max(chunks) > path.stat().st_size:
                found = f"{path.stat().st_size} of at least {max(chunks)} bytes"
                raise InputError(path, "image", found, xenium.DAMAGED)
            if np.prod(page.chunks, dtype=np.int64) * page.dtype.itemsize <= MAX_CHUNK_BYTES:
                number = len(page.dataoffsets)
                few = min(MORPHOLOGY_TILES_TRIED, number)
                for index in np.random.default_rng(0).choice(number, few, replace=False):
                    handle = tiff.filehandle
                    handle.seek(page.dataoffsets[index])
                    data = handle.read(page.databytecounts[index])
                    tables = {"jpegtables": page.jpegtables} if page.jpegtables else {}
                    page.decode(data, int(index), **tables)
            # 10x Genomics writes micrometres, with or without the unit.
            stated = re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', tiff.ome_metadata or "")
            unit = re.search(r'PhysicalSizeXUnit="([^"]*)"', tiff.ome_metadata or "")
            in_um = stated and (not unit or unit[1] in ("µm", "um", "&#181;m", "&#xB5;m"))
            return size, float(stated[1]) if in_um else None
    except InputError:
        raise
    except Exception as error:  # tifffile raises whatever the damaged part makes it raise
        raise InputError(path, "image", f"{type(error).__name__} {error}", xenium.DAMAGED) from None


def _check_he_image(findings, facts, path, sample) -> tuple[tuple[int, int], float | None]:
    """Size and stated pixel size of the H&E; a few tiles are decoded, drawn from a fixed seed."""
    from pairscape.images.tiff import Slide

    rng = np.random.default_rng(0)
    with Slide(path, any_layout=sample.get("he_layout") == "untiled") as slide:
        facts["he_size_px"] = [slide.width, slide.height]
        facts["he_um_per_px_stated"] = slide.um_per_px
        if slide.needs_retiling:
            found, remedy = "strips of any size", "nothing to do: it is retiled before it is read"
            findings.append(_finding("note", path, "tiles", found, remedy))
            return (slide.width, slide.height), slide.um_per_px
        # One point in each field of a chequerboard, so that no large part goes untried.
        fields = np.stack(np.divmod(np.arange(TILES_TRIED**2), TILES_TRIED), axis=1)
        for x, y in (fields + rng.random(fields.shape)) / TILES_TRIED:
            slide.read_region(int(x * slide.width), int(y * slide.height), 1, 1)
        # Whatever is cut off is missing at the end.
        slide.read_region(slide.width - 1, slide.height - 1, 1, 1)
        return (slide.width, slide.height), slide.um_per_px


def _check_alignment(findings, facts, he_image, path, pixel_size, stated_um, sample):
    """The matrix of H&E pixels to morphology pixels, or None where there is no H&E."""
    if not he_image:
        findings.append(
            _finding(
                "warning",
                path,
                "H&E image",
                "none",
                "name the H&E in he_image",
                "the H&E it aligns",
            )
        )
    alignment = resolve_alignment(path, sample, pixel_size, stated_um)
    matrix, place = alignment.matrix, path or he_image
    parts = facts["alignment"] = {"how": alignment.how, **decompose(matrix, pixel_size)}
    if alignment.residual_um is not None:
        parts["residual_um"] = alignment.residual_um
    if parts["anisotropy"] > MAX_ANISOTROPY:
        findings.append(
            _finding(
                "warning",
                place,
                "matrix",
                f"a stretch of {parts['anisotropy']:.3f}",
                "look at the alignment in Xenium Explorer",
                f"at most {MAX_ANISOTROPY}",
            )
        )
    if not 0.05 <= parts["um_per_px"] <= 5:
        findings.append(
            _finding(
                "error",
                place,
                "matrix",
                f"H&E pixels of {parts['um_per_px']:.4g} um",
                "give the matrix that takes H&E pixels to morphology pixels",
                "0.05 to 5 um",
            )
        )
    name = f"he_um_per_px of sample {sample.get('sample', '')}"
    listed_um = sample.get("he_um_per_px")
    for source, size in (("the image's header", stated_um), (name, listed_um)):
        gap = abs(float(size) / parts["um_per_px"] - 1) if size else 0
        if gap > MAX_SIZE_GAP:
            inverse_um = pixel_size**2 / parts["um_per_px"]
            inverted = abs(float(size) / inverse_um - 1) <= MAX_SIZE_GAP
            findings.append(
                _finding(
                    # A factor of 2 or 4 is a level of the pyramid, and every patch would be wrong.
                    "error" if gap > 0.2 else "warning",
                    place,
                    "matrix",
                    f"H&E pixels of {parts['um_per_px']:.4g} um",
                    "give its inverse: this one takes morphology pixels to H&E pixels"
                    if inverted
                    else "use the matrix of this very image at full resolution",
                    f"{float(size):.4g} um as {source} says",
                )
            )
    return matrix


def _check_identity(findings, facts, he_image, he_size, image_size, sample) -> None:
    """An H&E on the pixel grid of the morphology image has its size."""
    if any(abs(a - b) > 0.01 * b for a, b in zip(he_size, image_size, strict=True)):
        raise InputError(
            he_image,
            "size",
            "{} x {} px where the morphology image has {} x {}".format(*he_size, *image_size),
            f"give an alignment file: `identity` in he_alignment of sample "
            f"{sample.get('sample', '')} says that both share one pixel grid",
        )


def _check_transcripts(
    findings, facts, bundle, genes, pixel_size, image_size, matrix, he_size, he_image
) -> None:
    path = xenium.find_transcripts(bundle)
    names, rows = xenium.transcript_columns(bundle), xenium.transcript_rows(bundle)
    rule = xenium.gene_column(names)
    columns = ["feature_name", "x_location", "y_location", "qv", rule]
    columns += ["transcript_id"] if "transcript_id" in names else []
    facts |= {"transcripts_from": path.name, "genes_by": rule}
    tally: Counter = Counter()
    named: set = set()  # genes of any quality
    others: set = set()  # what else is named
    detected: set = set()  # genes of good quality
    ids = _Ids()
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    backwards = np.linalg.inv(matrix) if matrix is not None else None
    total = -(-rows // xenium.BATCH_ROWS) if rows else None
    for batch in progress(xenium.iter_transcripts(bundle, columns), "checking", total, "batch"):
        x, y, qv = (
            batch.column(name).to_numpy(zero_copy_only=False)
            for name in ("x_location", "y_location", "qv")
        )
        finite = np.isfinite(x) & np.isfinite(y)
        is_gene = xenium.gene_rows(batch)
        good = is_gene & (qv >= GOOD_QV) & finite
        tally["rows"] += len(batch)
        tally["not finite"] += len(batch) - int(finite.sum())
        tally["bad qv"] += int(len(qv) - ((qv >= QV_RANGE[0]) & (qv <= QV_RANGE[1])).sum())
        tally["gene"] += int(is_gene.sum())
        tally["good"] += int(good.sum())
        feature = batch.column("feature_name")
        codes = feature.indices.fill_null(len(feature.dictionary)).to_numpy(zero_copy_only=False)
        words = [*feature.dictionary.to_pylist(), None]
        for kept, chosen in ((named, is_gene), (others, ~is_gene), (detected, good)):
            kept |= {words[code] for code in np.flatnonzero(np.bincount(codes[chosen]))}
        if "transcript_id" in columns:
            ids.add(batch.column("transcript_id"))
        if not finite.any():
            continue
        xy = np.column_stack([x, y]) if finite.all() else np.column_stack([x, y])[finite]
        least, most = xy.min(axis=0), xy.max(axis=0)
        low, high = np.minimum(low, least), np.maximum(high, most)
        if image_size and pixel_size:
            # A pixel of slack: coordinates and image size are both rounded.
            far = np.array(image_size) * pixel_size + pixel_size
            for key, end in (("outside", far), ("outside, swapped", far[::-1])):
                if (least < -pixel_size).any() or (most > end).any():
                    tally[key] += int(((xy < -pixel_size) | (xy > end)).any(axis=1).sum())
        if matrix is not None and he_size and good.any():
            xy = np.column_stack([x[good], y[good]])
            for key, way in (("outside H&E", matrix), ("outside H&E, inverse", backwards)):
                he = um_to_he_px(way, pixel_size, xy)
                outside = int(((he < 0) | (he >= he_size)).any(axis=1).sum())
                tally[key] += outside
                if not outside:
                    break  # the other way round matters only where this one is wrong

    facts |= {
        "transcripts": tally["rows"],
        "gene_transcripts": tally["gene"],
        "gene_transcripts_q20": tally["good"],
        "genes_detected": len(detected if genes is None else detected & genes),
    }
    if np.isfinite(low).all():
        facts["x_um"] = [float(low[0]), float(high[0])]
        facts["y_um"] = [float(low[1]), float(high[1])]

    def add(level, field, found, expected, remedy, file=path):
        findings.append(_finding(level, file, field, found, remedy, expected))

    if tally["not finite"]:
        found = f"{tally['not finite']} rows without a finite value"
        add("error", "x_location, y_location", found, "numbers", xenium.DAMAGED)
    if tally["bad qv"]:
        found = f"{tally['bad qv']} rows outside"
        add("error", "qv", found, "{} to {}".format(*QV_RANGE), xenium.DAMAGED)
    if not tally["good"]:
        found = f"none of quality {GOOD_QV} or more among {tally['rows']} rows"
        add("error", "gene transcripts", found, "some", "leave the sample out")
    elif tally["good"] < tally["gene"] / 2:
        found = f"{tally['good']} of {tally['gene']} of quality {GOOD_QV} or more"
        add("warning", "qv", found, "half or more", "expect few transcripts a spot")
    unknown = sorted(str(name) for name in named if genes is not None and name not in genes)
    if unknown:
        found = f"{len(unknown)} genes that {facts['panel_from']} doesn't list ({_few(unknown)})"
        remedy = f"use the {facts['panel_from']} of this bundle"
        add("error", "feature_name", found, "genes of the panel", remedy)
    denied = sorted((others - named) & (genes or set()))
    if denied:
        found = f"{len(denied)} genes of the panel only in rows of no gene ({_few(denied)})"
        remedy = "expect no counts of these genes, or mend that column"
        add("warning", rule, found, "rows of a gene", remedy)
    if tally["outside"]:
        level = "error" if tally["outside"] > 0.01 * tally["rows"] else "warning"
        size = "{} x {} px of {:g} um".format(*image_size, pixel_size)
        found = f"{tally['outside']} rows outside of the morphology image"
        remedy = "make sure that transcripts, image and pixel size are of one bundle"
        if level == "error" and tally["outside, swapped"] < 0.1 * tally["outside"]:
            remedy = "swap x_location and y_location: the other way round they lie inside"
        add(level, "x_location, y_location", found, size, remedy)
    if matrix is not None and he_size and tally["good"]:
        share = tally["outside H&E"] / tally["good"]
        facts["transcripts_outside_he"] = share
        if share > 0.01:
            level = "error" if share > 0.5 else "warning"
            found = f"{share:.0%} of the gene transcripts outside of the image"
            remedy = "make sure that image and alignment belong to this bundle"
            if tally["outside H&E, inverse"] < 0.1 * tally["outside H&E"]:
                remedy = "give the inverse of the alignment: with it they lie on the image"
            add(level, "extent", found, "the whole Xenium region on it", remedy, he_image)
    repeated, share = ids.repeated()
    if repeated:
        level = "error" if share > 0.01 else "warning"
        found = f"{share:.2%} of the rows with an id that stood before"
        remedy = "fetch the file again: rows that stand twice count twice"
        add(level, "transcript_id", found, "each id once", remedy)
    _check_totals(findings, bundle, tally["good"])


class _Ids:
    """Counts repeated ids in bounded memory: of many, a fixed share by their hash is compared."""

    def __init__(self):
        self.kept, self.size, self.limit = [], 0, np.uint64(2**64 - 1)

    def add(self, column) -> None:
        if not pa.types.is_integer(column.type):
            return
        ids = column.drop_null().to_numpy(zero_copy_only=False).astype(np.uint64)
        mixed = ids * np.uint64(0x9E3779B97F4A7C15)  # wraps; odd, so no two ids become one
        self.kept.append(mixed[mixed <= self.limit])
        self.size += len(self.kept[-1])
        while self.size > IDS_KEPT:
            self.limit >>= np.uint64(1)
            kept = np.concatenate(self.kept)
            self.kept = [kept[kept <= self.limit]]
            if len(self.kept[0]) == self.size:
                break  # one id many times over: no share of the hashes would be smaller
            self.size = len(self.kept[0])

    def repeated(self) -> tuple[int, float]:
        """How many of the ids that were compared stood before, and their share."""
        kept = np.concatenate(self.kept) if self.kept else np.empty(0, np.uint64)
        again = len(kept) - len(np.unique(kept))
        return again, again / max(len(kept), 1)


def _check_totals(findings, bundle, good: int) -> None:
    """The number of good transcripts against what the bundle's own summary says."""
    path = Path(bundle) / "metrics_summary.csv"
    column = "total_high_quality_decoded_transcripts"
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            stated = float(next(csv.DictReader(handle))[column])
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return  # another version's summary, or none
    if good and abs(stated / good - 1) > 0.01:
        findings.append(
            _finding(
                "warning",
                xenium.find_transcripts(bundle),
                "gene transcripts",
                f"{good} of quality {GOOD_QV} or more",
                "make sure that the table is whole and of this run",
                f"{stated:.0f} as metrics_summary.csv says",
            )
        )


def _check_transcripts_of_cells(findings, facts, bundle, cells) -> None:
    """A seeded sample of the transcripts in cells lies where the cells of their ids are."""
    if cells is None or "cell_id" not in xenium.transcript_columns(bundle):
        return
    import pandas as pd

    ids, places = [], []
    for batch in _sampled_transcripts(bundle, ["cell_id", "x_location", "y_location"]):
        inside = xenium.cell_rows(batch)
        column = batch.column("cell_id").filter(pa.array(inside))
        ids += [str(value) for value in column.to_pylist()]
        xy = [batch.column(axis).to_numpy(zero_copy_only=False) for axis in batch.schema.names[1:]]
        places.append(np.column_stack(xy)[inside])
    if not ids:
        return
    xy_um = np.concatenate(places).astype(float)
    centres = cells.drop_duplicates("cell_id").set_index("cell_id")[["x_centroid", "y_centroid"]]
    centres_um = centres.reindex(pd.Index(ids)).to_numpy(float)
    known = np.isfinite(centres_um).all(axis=1) & np.isfinite(xy_um).all(axis=1)
    path = xenium.find_transcripts(bundle)
    remedy = "make sure that transcripts and cells come from one run of the software"
    unknown = 1 - known.mean()
    if unknown > 0.01:
        found = f"{unknown:.0%} of {len(ids)} sampled rows in cells that cells.parquet doesn't list"
        level = "error" if unknown > 0.5 else "warning"
        expected = "its cells"
        findings.append(_finding(level, path, "cell_id", found, remedy, expected))
    if not known.any():
        return
    away = np.median(np.hypot(*(xy_um - centres_um)[known].T))
    swapped = np.median(np.hypot(*(xy_um[:, ::-1] - centres_um)[known].T))
    facts["transcript_to_cell_um"] = float(away)
    if away > MAX_CELL_UM:
        if swapped <= MAX_CELL_UM:
            remedy = "swap x_location and y_location: the other way round they lie in their cells"
        found = f"transcripts {away:.0f} um from the centre of their cell (median)"
        expected = f"at most {MAX_CELL_UM} um"
        findings.append(_finding("error", path, "x_location, y_location", found, remedy, expected))


def _sampled_transcripts(bundle, columns: list[str]):
    """Batches from a few seeded places of the table; of a compressed text, its beginning."""
    if xenium.find_transcripts(bundle).suffix != ".parquet":
        yield next(xenium.iter_transcripts(bundle, columns, SAMPLED_ROWS))
        return
    with xenium.open_transcripts(bundle) as file:
        groups = file.metadata.num_row_groups
        chosen = np.random.default_rng(0).choice(groups, min(3, groups), replace=False)
    for group in sorted(chosen.tolist()):
        yield xenium.first_rows(bundle, columns, group, SAMPLED_ROWS)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

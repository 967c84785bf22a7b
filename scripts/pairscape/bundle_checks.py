"""What can be wrong with a bundle, its H&E and its alignment, found before anything long starts.

A finding is a dictionary: ``level`` (error, warning, note), ``file``, ``field``, ``found``,
``expected``, ``remedy``. An error means that spots or pairs would be wrong or can't be made.
"""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from pairscape import bundle as xenium
from pairscape.alignment import decompose, read_alignment, um_to_he_px
from pairscape.errors import InputError
from pairscape.program import progress

LEVELS = ("error", "warning", "note")
GOOD_QV = 20  # 10x Genomics counts transcripts from this Phred value on
QV_RANGE = (0, 40)
MAX_SIZE_GAP = 0.02  # between two statements of the same pixel size
MAX_ANISOTROPY = 1.02
TILES_TRIED = 4  # along each side of the H&E

# Pairs can be made without these; other tools and the figure of a cell overlay need them.
COMPANIONS = (
    "cells.parquet",
    "cell_boundaries.parquet",
    "nucleus_boundaries.parquet",
    "cell_feature_matrix.h5",
    "cells.zarr.zip",
    "metrics_summary.csv",
)


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

    experiment = attempt(_check_experiment, bundle)
    if not Path(bundle).is_dir():
        return _report(sample, findings, facts)
    genes = attempt(_check_panel, bundle, expected_genes, panel_file)
    attempt(_check_companions, bundle, experiment)
    image_size = attempt(_check_morphology, bundle, experiment or {})
    he_size = stated_um = None
    if he_image:
        he_size, stated_um = attempt(_check_he_image, he_image) or (None, None)
    pixel_size = xenium.pixel_size_um(experiment) if experiment else None
    matrix = attempt(
        _check_alignment, he_image, he_alignment, pixel_size, stated_um, sample.get("he_um_per_px")
    )
    attempt(_check_transcripts, bundle, genes, pixel_size, image_size, matrix, he_size, he_image)
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
    return experiment


def _check_panel(findings, facts, bundle, expected: dict | None, panel_file) -> set[str]:
    panel = {gene["gene_symbol"]: gene["gene_id"] for gene in xenium.read_panel(bundle)}
    facts["panel_genes"] = len(panel)
    if expected:
        path = Path(bundle) / "gene_panel.json"
        missing = sorted(set(expected) - set(panel))
        shared = len(expected) - len(missing)
        facts["panel_genes_expected"], facts["panel_genes_shared"] = len(expected), shared
        where = f"the {len(expected)} genes of {panel_file or 'the panel'}"
        if 2 * shared < len(expected):
            findings.append(
                _finding(
                    "error",
                    path,
                    "genes",
                    f"{shared} of {len(expected)} ({facts.get('panel_name') or 'unnamed panel'})",
                    "correct the sample's panel in the sample table, or drop it from the dataset",
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


def _check_companions(findings, facts, bundle, experiment) -> None:
    import h5py
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in COMPANIONS:
        path = Path(bundle) / name
        if not path.is_file():
            findings.append(
                _finding(
                    "warning", path, "file", "nothing", "fetch the whole bundle again", "the file"
                )
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
    if "cells" not in facts:
        return
    try:
        cells = xenium.read_cells(bundle)
    except InputError as error:
        findings.append(_finding("error", error.file, error.field, error.found, error.remedy))
        return
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


def _check_morphology(findings, facts, bundle, experiment: dict) -> tuple[int, int] | None:
    """Width and height of the morphology image; no pixel is decoded."""
    import tifffile

    path = xenium.find_morphology(bundle, experiment)
    if path is None:
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
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            size = page.imagewidth, page.imagelength
            end = max(
                offset + count
                for level in (page, *(page.pages or ()))
                for offset, count in zip(level.dataoffsets, level.databytecounts, strict=True)
            )
    except Exception as error:  # tifffile raises whatever the damaged part makes it raise
        raise InputError(path, "image", f"{type(error).__name__} {error}", xenium.DAMAGED) from None
    if end > path.stat().st_size:
        raise InputError(
            path, "image", f"{path.stat().st_size} of at least {end} bytes", xenium.DAMAGED
        )
    facts["morphology_size_px"] = list(size)
    return size


def _check_he_image(findings, facts, path) -> tuple[tuple[int, int], float | None]:
    """Size and stated pixel size of the H&E; a few tiles are decoded, drawn from a fixed seed."""
    from pairscape.slide import Slide

    rng = np.random.default_rng(0)
    with Slide(path) as slide:
        facts["he_size_px"] = [slide.width, slide.height]
        facts["he_um_per_px_stated"] = slide.um_per_px
        # One point in each field of a chequerboard, so that no large part goes untried.
        fields = np.stack(np.divmod(np.arange(TILES_TRIED**2), TILES_TRIED), axis=1)
        for x, y in (fields + rng.random(fields.shape)) / TILES_TRIED:
            slide.read_region(int(x * slide.width), int(y * slide.height), 1, 1)
        # Whatever is cut off is missing at the end.
        slide.read_region(slide.width - 1, slide.height - 1, 1, 1)
        return (slide.width, slide.height), slide.um_per_px


def _check_alignment(findings, facts, he_image, path, pixel_size, stated_um, listed_um):
    if not path:
        if he_image:
            raise InputError(
                he_image, "alignment", "none", "name its file in he_alignment: it is never guessed"
            )
        return None
    matrix = read_alignment(path)
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
    if pixel_size is None:
        return None
    parts = facts["alignment"] = decompose(matrix, pixel_size)
    if parts["anisotropy"] > MAX_ANISOTROPY:
        findings.append(
            _finding(
                "warning",
                path,
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
                path,
                "matrix",
                f"H&E pixels of {parts['um_per_px']:.4g} um",
                "give the matrix that takes H&E pixels to morphology pixels",
                "0.05 to 5 um",
            )
        )
    for source, size in (("the image's header", stated_um), ("the sample table", listed_um)):
        gap = abs(float(size) / parts["um_per_px"] - 1) if size else 0
        if gap > MAX_SIZE_GAP:
            findings.append(
                _finding(
                    # A factor of 2 or 4 is a level of the pyramid, and every patch would be wrong.
                    "error" if gap > 0.2 else "warning",
                    path,
                    "matrix",
                    f"H&E pixels of {parts['um_per_px']:.4g} um",
                    "use the matrix of this very image at full resolution",
                    f"{float(size):.4g} um as {source} says",
                )
            )
    return matrix


def _check_transcripts(
    findings, facts, bundle, genes, pixel_size, image_size, matrix, he_size, he_image
) -> None:
    path = Path(bundle) / "transcripts.parquet"
    with xenium.open_transcripts(bundle) as file:
        rows, names = file.metadata.num_rows, file.schema_arrow.names
    columns = ["feature_name", "x_location", "y_location", "qv"]
    columns = list(dict.fromkeys([*columns, xenium.gene_column(names)]))
    tally: Counter = Counter()
    named: set = set()  # genes of any quality
    detected: set = set()  # genes of good quality
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    batches = xenium.iter_transcripts(bundle, columns)
    for batch in progress(batches, "checking", -(-rows // xenium.BATCH_ROWS), "batch"):
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
        named |= {words[code] for code in np.unique(codes[is_gene])}
        detected |= {words[code] for code in np.unique(codes[good])}
        if not finite.any():
            continue
        xy = np.column_stack([x, y]) if finite.all() else np.column_stack([x, y])[finite]
        low, high = np.minimum(low, xy.min(axis=0)), np.maximum(high, xy.max(axis=0))
        if image_size and pixel_size:
            # A pixel of slack: coordinates and image size are both rounded.
            far = np.array(image_size) * pixel_size + pixel_size
            tally["outside"] += int(((xy < -pixel_size) | (xy > far)).any(axis=1).sum())
        if matrix is not None and he_size and good.any():
            he = um_to_he_px(matrix, pixel_size, np.column_stack([x[good], y[good]]))
            tally["outside H&E"] += int(((he < 0) | (he >= he_size)).any(axis=1).sum())

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
        found = f"{len(unknown)} genes that gene_panel.json doesn't list ({_few(unknown)})"
        remedy = "use the gene_panel.json of this bundle"
        add("error", "feature_name", found, "genes of the panel", remedy)
    if tally["outside"]:
        level = "error" if tally["outside"] > 0.01 * tally["rows"] else "warning"
        size = "{} x {} px of {:g} um".format(*image_size, pixel_size)
        found = f"{tally['outside']} rows outside of the morphology image"
        remedy = "make sure that transcripts, image and pixel size are of one bundle"
        add(level, "x_location, y_location", found, size, remedy)
    if matrix is not None and he_size and tally["good"]:
        share = tally["outside H&E"] / tally["good"]
        facts["transcripts_outside_he"] = share
        if share > 0.01:
            level = "error" if share > 0.5 else "warning"
            found = f"{share:.0%} of the gene transcripts outside of the image"
            remedy = "make sure that image and alignment belong to this bundle"
            add(level, "extent", found, "the whole Xenium region on it", remedy, he_image)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

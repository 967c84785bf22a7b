"""What can be wrong with a bundle, its H&E and its alignment, found before anything long starts.

A finding is a dictionary: ``level`` (error, warning, note), ``file``, ``field``, ``found``,
``expected``, ``remedy``. An error means that spots or pairs would be wrong or can't be made.
"""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairscape.acquire import bundle as xenium
from pairscape.acquire.findings import Findings, few_words, report
from pairscape.acquire.image_checks import (
    check_alignment,
    check_he_image,
    check_identity,
    check_morphology,
)
from pairscape.acquire.samples import FROM_BUNDLE, REGISTER
from pairscape.acquire.transcript_checks import Place, check_transcripts, check_transcripts_of_cells
from pairscape.core.errors import InputError
from pairscape.core.hdf5 import open_hdf5
from pairscape.core.names import read_panel_list

NEWEST_VERSION = 4  # of the software whose bundles are known here

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
    bundle, sample: dict, *, he_image=None, he_alignment=None, panel_file=None
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
    panel_file
        The genes of the panel that the sample is said to have (gene_symbol, ensembl_id), or None.

    Returns
    -------
    The report: ``sample``, ``verdict`` (the worst of ok, warning, error), ``findings`` (errors
    first), ``facts``.
    """
    findings = Findings()
    facts: dict = {"bundle": str(bundle)}

    def attempt(function, *args):
        try:
            return function(findings, facts, *args)
        except InputError as error:
            findings.add_error(error)
            return None

    if not Path(bundle).is_dir():
        found = "a file" if Path(bundle).is_file() else "nothing"
        name = sample.get("sample", "")
        remedy = f"put the bundle there or correct column bundle of sample {name} in its table"
        findings.add("error", bundle, "bundle", found, remedy, "a folder")
        return report(sample, findings, facts)
    experiment = attempt(_check_experiment, bundle)
    listed = attempt(lambda *_: read_panel_list(panel_file)) if panel_file else None
    genes = attempt(_check_panel, bundle, sample, listed, panel_file)
    attempt(_check_companions, bundle)
    cells = attempt(_check_cells, bundle, experiment) if "cells" in facts else None
    attempt(_check_matrix, bundle, genes, cells)
    from_geo = bool(sample.get("geo_accession"))
    image_size = attempt(check_morphology, bundle, experiment or {}, from_geo)
    he_size, stated = None, (None, "")
    if he_image:
        he_size, stated = attempt(check_he_image, he_image, sample) or (he_size, stated)
    pixel_size = xenium.pixel_size_um(experiment) if experiment else None
    matrix = None
    registered = sample.get("he_alignment") == REGISTER  # later, and checked then
    if pixel_size and (he_image or he_alignment) and not registered:
        matrix = attempt(check_alignment, he_image, he_alignment, pixel_size, stated, sample)
    if he_size and image_size and sample.get("he_alignment") == "identity":
        attempt(check_identity, he_image, he_size, image_size, sample)
    place = Place(pixel_size, image_size, matrix, he_size, he_image)
    attempt(check_transcripts, bundle, genes, place)
    attempt(check_transcripts_of_cells, bundle, cells)
    if sample.get("panel") not in (None, "", FROM_BUNDLE) and not panel_file:
        findings.add(
            "note",
            "sample table",
            f"panel of sample {sample.get('sample', '')}",
            f"{sample['panel']}, which has no gene list",
            "correct it, or add its list where other panels' lists are to use it in a dataset",
        )
    if not he_image:
        findings.add(
            "note",
            bundle,
            "H&E image",
            "none",
            "pool spots from it; name an H&E image in he_image to make pairs from it",
            "an H&E image",
        )
    return report(sample, findings, facts)


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
        findings.add_error(error, "warning")
        return experiment
    facts["format_version"] = list(version)
    if version[0] > NEWEST_VERSION:
        findings.add(
            "warning",
            path,
            "software version",
            facts["software_version"],
            "look at the spots with care: this layout may hold what isn't known here",
            f"up to {NEWEST_VERSION}.x",
        )
    return experiment


def _check_panel(findings, facts, bundle, sample, expected: dict | None, panel_file) -> set[str]:
    panel = {gene["gene_symbol"]: gene["gene_id"] for gene in xenium.read_panel(bundle)}
    path = xenium.find_panel(bundle)
    facts["panel_genes"] = len(panel)
    facts["panel_from"] = path.name
    if path.name != "gene_panel.json":
        findings.add(
            "note",
            Path(bundle) / "gene_panel.json",
            "file",
            "nothing",
            f"nothing to do: the genes are taken from {path.name}",
            "the file",
        )
    if expected:
        missing = sorted(set(expected) - set(panel))
        shared = len(expected) - len(missing)
        facts["panel_genes_expected"], facts["panel_genes_shared"] = len(expected), shared
        where = f"the {len(expected)} genes of {panel_file or 'the panel'}"
        if 2 * shared < len(expected):
            better = _fitting_panel(panel_file, panel)
            name = sample.get("sample", "")
            findings.add(
                "error",
                path,
                "genes",
                f"{shared} of {len(expected)} ({facts.get('panel_name') or 'unnamed panel'})",
                f"correct column panel of sample {name} in the sample table"
                + (f": {better} fits" if better else ", or drop it from the dataset"),
                where,
            )
        elif missing:
            findings.add(
                "warning",
                path,
                "genes",
                f"all but {len(missing)} ({few_words(missing)})",
                "expect a dataset without these genes, or drop the sample from it",
                where,
            )
        other = [g for g in expected if expected[g] and panel.get(g) and panel[g] != expected[g]]
        if other:
            findings.add(
                "warning",
                path,
                "Ensembl ids",
                f"others for {len(other)} genes ({few_words(other)})",
                "make sure that both speak of the same species and annotation",
                "those of " + str(panel_file or "the panel"),
            )
    return set(panel)


def _fitting_panel(panel_file, genes) -> str | None:
    """The list beside ``panel_file`` with most of the genes, if that is nearly all of them."""
    shares = {}
    for path in sorted(Path(panel_file).parent.glob("*.tsv")) if panel_file else []:
        try:
            listed = set(read_panel_list(path))
        except InputError:
            continue
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
            findings.add(level, path, "file", "nothing", "fetch the whole bundle again", "the file")
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
            findings.add("error", path, "file", error, xenium.DAMAGED, "a whole file")


def _check_cells(findings, facts, bundle, experiment):
    """The cells (id, centroids, transcripts) as a table, checked."""
    cells = xenium.read_cells(bundle)
    facts["cells"] = len(cells)
    path = Path(bundle) / "cells.parquet"
    lost = int((~np.isfinite(cells[["x_centroid", "y_centroid"]].to_numpy(float))).any(1).sum())
    if lost:
        findings.add(
            "error",
            path,
            "x_centroid, y_centroid",
            f"{lost} missing",
            xenium.DAMAGED,
            "numbers",
        )
    if not cells["cell_id"].is_unique:
        twice = cells["cell_id"][cells["cell_id"].duplicated()]
        found = f"{len(twice)} ids twice ({few_words(list(twice))})"
        findings.add("error", path, "cell_id", found, xenium.DAMAGED, "each id once")
    stated = (experiment or {}).get("num_cells")
    if isinstance(stated, int) and stated != len(cells):
        findings.add(
            "warning",
            path,
            "rows",
            len(cells),
            "make sure that all files come from one run of the software",
            f"{stated} (num_cells of experiment.xenium)",
        )
    return cells


def _check_matrix(findings, facts, bundle, genes, cells) -> None:
    """The features and cells of the cell matrix against the panel and the cells."""
    import h5py

    path = Path(bundle) / "cell_feature_matrix.h5"
    if not h5py.is_hdf5(path):
        return  # missing or damaged, which is told already
    counted = set(xenium.feature_genes(xenium.read_features(bundle)))
    with open_hdf5(path) as file:
        columns = file["matrix/barcodes"].shape[0] if "matrix/barcodes" in file else None
    remedy = "make sure that all files come from one run of the software"
    if genes and counted != genes:
        gone, more = sorted(genes - counted), sorted(counted - genes)
        found = f"{len(counted)} genes, without {len(gone)} ({few_words(gone)})" if gone else ""
        found = found or f"{len(counted)} genes, {len(more)} more ({few_words(more)})"
        level = "error" if len(genes & counted) < len(genes) / 2 else "warning"
        expected = f"the {len(genes)} genes of {facts['panel_from']}"
        findings.add(level, path, "matrix/features", found, remedy, expected)
    if cells is not None and columns not in (None, len(cells)):
        found = f"{columns} cells"
        expected = f"{len(cells)} (rows of cells.parquet)"
        findings.add("warning", path, "matrix/barcodes", found, remedy, expected)

"""The text files of a simulated bundle: its panel, and what the instrument reports about the run."""

import hashlib
import json
import uuid
from pathlib import Path

import numpy as np

from pairscape.core.files import write_json
from pairscape.simulation import knobs as knob
from pairscape.simulation.bundle_content import Content
from pairscape.simulation.tiles import MIN_QV

SOFTWARE = "xenium-3.0.0.15"
_DESCRIPTORS = {
    "predesigned_gene": "gene",
    "negative_control_probe": "negative_control",
    "genomic_control_probe": "genomic_control",
    "deprecated_codeword": "deprecated_codeword",
}
_IMAGES = {
    "morphology_filepath": "morphology.ome.tif",
    "morphology_focus_filepath": "morphology_focus/morphology_focus_0000.ome.tif",
}
_EXPLORER_FILES = {
    "transcripts_zarr_filepath": "transcripts.zarr.zip",
    "cells_zarr_filepath": "cells.zarr.zip",
    "cell_features_zarr_filepath": "cell_feature_matrix.zarr.zip",
    "analysis_zarr_filepath": "analysis.zarr.zip",
    "analysis_summary_filepath": "analysis_summary.html",
}
# The header of metrics_summary.csv; what isn't simulated stays empty.
_METRICS = (
    "run_name,cassette_name,region_name,panel_name,panel_design_id,predesigned_panel_id,"
    "region_area,total_cell_area,total_high_quality_decoded_transcripts,"
    "fraction_transcripts_decoded_q20,fraction_predesigned_transcripts_decoded_q20,"
    "fraction_custom_transcripts_decoded_q20,nuclear_transcripts_per_100um2,"
    "decoded_transcripts_per_100um2,adjusted_negative_control_probe_rate,"
    "adjusted_negative_control_codeword_rate,adjusted_genomic_control_probe_rate,"
    "negative_control_probe_counts_per_control_per_cell,"
    "genomic_control_probe_counts_per_control_per_cell,"
    "estimated_number_of_false_positive_transcripts_per_cell,"
    "estimated_number_of_false_positive_transcripts_per_cell_including_genomic_counts,"
    "num_cells_detected,fraction_empty_cells,cells_per_100um2,fraction_transcripts_assigned,"
    "median_genes_per_cell,median_predesigned_genes_per_cell,median_custom_genes_per_cell,"
    "median_transcripts_per_cell,median_predesigned_transcripts_per_cell,"
    "median_custom_transcripts_per_cell,thickness_transcripts_high_quality,stain_definition,"
    "segmented_cell_stain_frac,segmented_cell_boundary_frac,segmented_cell_interior_frac,"
    "segmented_cell_nuc_expansion_frac,segmented_cell_boundary_count,"
    "segmented_cell_interior_count,segmented_cell_nuc_expansion_count,"
    "fraction_of_ambiguous_nucleus_mask_pixels,fraction_of_ambiguous_cell_mask_pixels,"
    "fraction_of_nucleus_polygons_removed,fraction_of_cell_polygons_removed,"
    "fraction_of_nuclei_without_cell,number_of_cell_non_simple_polygons,"
    "number_of_cell_multi_polygons,number_of_nucleus_non_simple_polygons,"
    "number_of_nucleus_multi_polygons,segmented_cell_imported_frac,segmented_cell_imported_count"
)


def write_texts(folder: Path, content: Content) -> None:
    """Write the panel, the experiment and its metrics into a bundle's folder."""
    numbers = _run_numbers(content)
    _write_panel(folder / "gene_panel.json", content.row, content.drawn.features)
    _write_experiment(folder / "experiment.xenium", content, numbers)
    _write_metrics(folder / "metrics_summary.csv", content, numbers)


def _panel_names(sample: dict) -> tuple[str, str]:
    panel = sample.get("panel") or "panel"
    return f"Simulated {panel}", f"{panel}_simulated"


def _write_panel(path, sample: dict, features: dict) -> None:
    name, design = _panel_names(sample)
    identity = {"design_id": design, "name": name, "version": "1.0.0"}
    targets = []
    for i, category in enumerate(features["category"]):
        # Codewords without a target don't stand in the instrument's panel either.
        if category not in _DESCRIPTORS:
            continue
        data = {"name": features["name"][i]}
        if features["is_gene"][i]:
            data = {"id": features["id"][i]} | data
        targets.append(
            {
                "codewords": [int(features["codeword"][i])],
                "info": {"gene_coverage": 1},
                "source": {"category": "current", "identity": identity},
                "type": {"data": data, "descriptor": _DESCRIPTORS[category]},
            }
        )
    payload = {
        "chemistry": {"decoder": "xenium_decoding_v1", "version": "v1"},
        "customer": {"email": None, "name": None},
        "designer": {
            "date_created": "2024-02-26T17:00:00",
            "designed_by": {"email": None, "name": "Pairscape"},
            "version": "1.0.0",
        },
        "panel": {
            "description": name,
            "identity": identity,
            "num_gene_targets": int(features["is_gene"].sum()),
            "species": "Human",
            "tissue": sample.get("organ") or "Multi",
            "type": {"descriptor": "predesigned"},
        },
        "spec_version": "0.1.0",
        "targets": targets,
    }
    checksum = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    metadata = {"sha256_checksum": checksum, "ui_props": {"visible": True}}
    write_json(path, {"metadata": metadata, "payload": payload})


def _run_numbers(content: Content) -> dict:
    """What the instrument reports about a run, by its names in metrics_summary.csv."""
    knobs, molecules = content.drawn.knobs, content.molecules
    good = molecules["qv"] >= MIN_QV
    genes = molecules["feature"] < content.drawn.genes
    counted = good & genes
    cell_area, nucleus_area = (
        content.cells.areas_and_centroids(name)[0] for name in ("cell", "nucleus")
    )
    region_area = knobs["width_um"] * knobs["height_um"]
    counts = content.counts[: content.drawn.genes]
    per_cell = np.asarray(counts.sum(axis=0)).ravel()
    good_genes = max(int(counted.sum()), 1)
    n = len(cell_area)
    depth = molecules["z_um"][good]
    low, high = np.percentile(depth, [2.5, 97.5]) if len(depth) else (0.0, 0.0)
    in_nuclei = (counted & content.nuclear).sum()
    return {
        "num_cells_detected": n,
        "median_transcripts_per_cell": int(np.median(per_cell)) if n else 0,
        "median_genes_per_cell": int(np.median(np.diff(counts.tocsc().indptr))) if n else 0,
        "fraction_empty_cells": float((per_cell == 0).mean()) if n else 0.0,
        "decoded_transcripts_per_100um2": float(100 * good_genes / region_area),
        "region_area": float(region_area),
        "total_cell_area": float(cell_area.sum()),
        "thickness_transcripts_high_quality": float(high - low),
        "nuclear_transcripts_per_100um2": float(100 * in_nuclei / max(nucleus_area.sum(), 1.0)),
        "fraction_transcripts_assigned": float(
            (counted & (content.assigned >= 0)).sum() / good_genes
        ),
        "total_high_quality_decoded_transcripts": int(counted.sum()),
        "fraction_transcripts_decoded_q20": float(counted.sum() / max(int(genes.sum()), 1)),
        "cells_per_100um2": float(100 * n / region_area),
    }


def _write_experiment(path, content: Content, numbers: dict) -> None:
    sample = content.row
    panel, design = _panel_names(sample)
    random = knob.rng(content.drawn.seeds["molecules"], "identifiers")
    thickness = numbers["thickness_transcripts_high_quality"]

    def identifier() -> str:
        return str(uuid.UUID(bytes=random.bytes(16), version=4))

    write_json(
        path,
        {
            "major_version": 5,
            "minor_version": 0,
            "patch_version": 0,
            "run_name": "Pairscape simulation",
            "run_start_time": "2024-05-29T00:14:01Z",
            "region_name": sample["sample"],
            "preservation_method": (sample.get("preservation") or "FFPE").lower(),
            "num_cells": numbers["num_cells_detected"],
            "transcripts_per_cell": numbers["median_transcripts_per_cell"],
            "transcripts_per_100um": numbers["decoded_transcripts_per_100um2"],
            "region_area": numbers["region_area"],
            "total_cell_area": numbers["total_cell_area"],
            "thickness_of_high_quality_decoded_transcripts": thickness,
            "nuclear_transcripts_per_100um": numbers["nuclear_transcripts_per_100um2"],
            "fraction_transcripts_assigned": numbers["fraction_transcripts_assigned"],
            "segmented_cell_stain_frac": 0.0,
            "segmented_cell_boundary_frac": 0.0,
            "segmented_cell_interior_frac": 0.0,
            "segmented_cell_nuc_expansion_frac": 1.0,
            "imported_cell_frac": 0.0,
            "cassette_name": "simulation",
            "slide_id": "simulation",
            "panel_type": "predesigned",
            "panel_design_id": design,
            "panel_predesigned_id": "",
            "panel_name": panel,
            "panel_organism": "Human",
            "panel_tissue_type": sample.get("organ") or "Multi",
            "panel_num_targets_predesigned": content.drawn.genes,
            "panel_num_targets_custom": 0,
            "chemistry_version": "v1",
            "pixel_size": knob.PIXEL_SIZE_UM,
            "instrument_sn": "simulated",
            "instrument_sw_version": "simulated",
            "analysis_sw_version": SOFTWARE,
            "analysis_uuid": identifier(),
            "experiment_uuid": identifier(),
            "cassette_uuid": identifier(),
            "roi_uuid": identifier(),
            "z_step_size": 3.0,
            "well_uuid": f"def_{random.bytes(4).hex()}_rec_{random.bytes(4).hex()}",
            "calibration_uuid": identifier(),
            "images": _IMAGES,
            "xenium_explorer_files": _EXPLORER_FILES,
            "segmentation_stain": "",
        },
    )


def _write_metrics(path: Path, content: Content, numbers: dict) -> None:
    panel, design = _panel_names(content.row)
    values = {
        **numbers,
        "run_name": "Pairscape simulation",
        "cassette_name": "simulation",
        "region_name": content.row["sample"],
        "panel_name": panel,
        "panel_design_id": design,
        "fraction_predesigned_transcripts_decoded_q20": numbers["fraction_transcripts_decoded_q20"],
        "median_predesigned_genes_per_cell": numbers["median_genes_per_cell"],
        "median_predesigned_transcripts_per_cell": numbers["median_transcripts_per_cell"],
        "segmented_cell_stain_frac": 0.0,
        "segmented_cell_boundary_frac": 0.0,
        "segmented_cell_interior_frac": 0.0,
        "segmented_cell_nuc_expansion_frac": 1.0,
        "segmented_cell_boundary_count": 0,
        "segmented_cell_interior_count": 0,
        "segmented_cell_nuc_expansion_count": numbers["num_cells_detected"],
        "segmented_cell_imported_frac": 0.0,
        "segmented_cell_imported_count": 0,
    }
    texts = [str(values.get(name, "")) for name in _METRICS.split(",")]
    path.write_text(f"{_METRICS}\n{','.join(texts)}\n", encoding="utf-8")

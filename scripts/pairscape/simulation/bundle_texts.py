"""The text files of a simulated bundle."""

import hashlib
import json
import uuid

import numpy as np

from pairscape.core.files import write_json
from pairscape.core.tsv import write_tsv
from pairscape.simulation import knobs as knob
from pairscape.simulation import segmentation, transcripts
from pairscape.simulation import tissue as tissues
from pairscape.simulation.tissue import DOMAINS, KINDS, STATES
from pairscape.simulation.transcripts import MIN_QV

SOFTWARE = "xenium-3.0.0.15"


SEGMENTATION = "Segmented by nucleus expansion of 5.0µm"


def _panel_names(sample) -> tuple[str, str]:
    panel = sample.get("panel") or "panel"
    return f"Simulated {panel}", f"{panel}_simulated"


def write_panel(path, sample, features):
    name, design = _panel_names(sample)
    identity = {"design_id": design, "name": name, "version": "1.0.0"}
    descriptors = {
        "predesigned_gene": "gene",
        "negative_control_probe": "negative_control",
        "genomic_control_probe": "genomic_control",
        "deprecated_codeword": "deprecated_codeword",
    }
    targets = []
    for i, category in enumerate(features["category"]):
        # Codewords without a target don't stand in the instrument's panel either.
        if category not in descriptors:
            continue
        data = {"name": features["name"][i]}
        if features["is_gene"][i]:
            data = {"id": features["id"][i]} | data
        targets.append(
            {
                "codewords": [int(features["codeword"][i])],
                "info": {"gene_coverage": 1},
                "source": {"category": "current", "identity": identity},
                "type": {"data": data, "descriptor": descriptors[category]},
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


def number_texts(knobs, features, molecules, cells, assigned, nuclear, counts) -> dict:
    """What the instrument reports about a run."""
    good = molecules["qv"] >= MIN_QV
    genes = features["is_gene"][molecules["feature"]]
    cell_area, _ = segmentation.areas_and_centroids(cells["cell"].astype(float))
    nucleus_area, _ = segmentation.areas_and_centroids(cells["nucleus"].astype(float))
    region_area = knobs["width_um"] * knobs["height_um"]
    gene_counts = counts[: int(features["is_gene"].sum())]
    per_cell = np.asarray(gene_counts.sum(axis=0)).ravel()
    kinds = np.diff(gene_counts.tocsc().indptr)
    good_genes = max(int((good & genes).sum()), 1)
    n = len(cell_area)
    depth = molecules["z_um"][good]
    low, high = np.percentile(depth, [2.5, 97.5]) if len(depth) else (0.0, 0.0)
    return {
        "num_cells": n,
        "median_transcripts": int(np.median(per_cell)) if n else 0,
        "median_genes": int(np.median(kinds)) if n else 0,
        "empty": float((per_cell == 0).mean()) if n else 0.0,
        "per_100um2": float(100 * good_genes / region_area),
        "region_area": float(region_area),
        "total_cell_area": float(cell_area.sum()),
        "thickness": float(high - low),
        "nuclear_per_100um2": float(
            100 * (good & genes & nuclear).sum() / max(nucleus_area.sum(), 1.0)
        ),
        "assigned": float((good & genes & (assigned >= 0)).sum() / good_genes),
        "good": int((good & genes).sum()),
        "good_fraction": float((good & genes).sum() / max(int(genes.sum()), 1)),
        "cells_per_100um2": float(100 * n / region_area),
    }


def write_experiment(path, sample, features, numbers, seeds):
    panel, design = _panel_names(sample)
    random = knob.rng(seeds["molecules"], "identifiers")

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
            "num_cells": numbers["num_cells"],
            "transcripts_per_cell": numbers["median_transcripts"],
            "transcripts_per_100um": numbers["per_100um2"],
            "region_area": numbers["region_area"],
            "total_cell_area": numbers["total_cell_area"],
            "thickness_of_high_quality_decoded_transcripts": numbers["thickness"],
            "nuclear_transcripts_per_100um": numbers["nuclear_per_100um2"],
            "fraction_transcripts_assigned": numbers["assigned"],
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
            "panel_num_targets_predesigned": int(features["is_gene"].sum()),
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
            "images": {
                "morphology_filepath": "morphology.ome.tif",
                "morphology_focus_filepath": "morphology_focus/morphology_focus_0000.ome.tif",
            },
            "xenium_explorer_files": {
                "transcripts_zarr_filepath": "transcripts.zarr.zip",
                "cells_zarr_filepath": "cells.zarr.zip",
                "cell_features_zarr_filepath": "cell_feature_matrix.zarr.zip",
                "analysis_zarr_filepath": "analysis.zarr.zip",
                "analysis_summary_filepath": "analysis_summary.html",
            },
            "segmentation_stain": "",
        },
    )


def write_metrics(path, sample, numbers):
    panel, design = _panel_names(sample)
    values = {
        "run_name": "Pairscape simulation",
        "cassette_name": "simulation",
        "region_name": sample["sample"],
        "panel_name": panel,
        "panel_design_id": design,
        "predesigned_panel_id": "",
        "region_area": numbers["region_area"],
        "total_cell_area": numbers["total_cell_area"],
        "total_high_quality_decoded_transcripts": numbers["good"],
        "fraction_transcripts_decoded_q20": numbers["good_fraction"],
        "fraction_predesigned_transcripts_decoded_q20": numbers["good_fraction"],
        "fraction_custom_transcripts_decoded_q20": "",
        "nuclear_transcripts_per_100um2": numbers["nuclear_per_100um2"],
        "decoded_transcripts_per_100um2": numbers["per_100um2"],
        "adjusted_negative_control_probe_rate": "",
        "adjusted_negative_control_codeword_rate": "",
        "adjusted_genomic_control_probe_rate": "",
        "negative_control_probe_counts_per_control_per_cell": "",
        "genomic_control_probe_counts_per_control_per_cell": "",
        "estimated_number_of_false_positive_transcripts_per_cell": "",
        "estimated_number_of_false_positive_transcripts_per_cell_including_genomic_counts": "",
        "num_cells_detected": numbers["num_cells"],
        "fraction_empty_cells": numbers["empty"],
        "cells_per_100um2": numbers["cells_per_100um2"],
        "fraction_transcripts_assigned": numbers["assigned"],
        "median_genes_per_cell": numbers["median_genes"],
        "median_predesigned_genes_per_cell": numbers["median_genes"],
        "median_custom_genes_per_cell": "",
        "median_transcripts_per_cell": numbers["median_transcripts"],
        "median_predesigned_transcripts_per_cell": numbers["median_transcripts"],
        "median_custom_transcripts_per_cell": "",
        "thickness_transcripts_high_quality": numbers["thickness"],
        "stain_definition": "",
        "segmented_cell_stain_frac": 0.0,
        "segmented_cell_boundary_frac": 0.0,
        "segmented_cell_interior_frac": 0.0,
        "segmented_cell_nuc_expansion_frac": 1.0,
        "segmented_cell_boundary_count": 0,
        "segmented_cell_interior_count": 0,
        "segmented_cell_nuc_expansion_count": numbers["num_cells"],
        "fraction_of_ambiguous_nucleus_mask_pixels": "",
        "fraction_of_ambiguous_cell_mask_pixels": "",
        "fraction_of_nucleus_polygons_removed": "",
        "fraction_of_cell_polygons_removed": "",
        "fraction_of_nuclei_without_cell": "",
        "number_of_cell_non_simple_polygons": "",
        "number_of_cell_multi_polygons": "",
        "number_of_nucleus_non_simple_polygons": "",
        "number_of_nucleus_multi_polygons": "",
        "segmented_cell_imported_frac": 0.0,
        "segmented_cell_imported_count": 0,
    }
    lines = [",".join(values), ",".join(str(value) for value in values.values())]
    path.write_text("\n".join(lines) + "\n")


def write_truth(
    folder, sample, knobs, seeds, run_seed, tissue, features, molecules, cells, counts, picture,
    shift,
):  # fmt: skip
    """What the sample was made from, and what a reader must find in it."""
    from scipy import sparse

    folder.mkdir()
    n_genes = int(features["is_gene"].sum())
    rows, columns = transcripts.tile_grid(knobs)
    spots = transcripts.count_tiles(molecules, features["is_gene"], knobs)
    sparse.save_npz(folder / "counts.npz", spots)
    write_tsv(
        folder / "genes.tsv",
        [
            {"gene_symbol": name, "gene_id": identity}
            for name, identity in zip(
                features["name"][:n_genes], features["id"][:n_genes], strict=True
            )
        ],
        ("gene_symbol", "gene_id"),
    )

    index = cells["index"]
    x_um, y_um = tissue.cells["x_um"][index], tissue.cells["y_um"][index]
    kind = tissue.cells["kind"][index]
    types = transcripts.cells_per_tile(x_um, y_um, kind, knobs)
    centre_x = np.minimum((np.arange(columns) + 0.5) * knob.SPOT_UM, knobs["width_um"])
    centre_y = np.minimum((np.arange(rows) + 0.5) * knob.SPOT_UM, knobs["height_um"])
    centre_x, centre_y = np.tile(centre_x, rows), np.repeat(centre_y, columns)
    inside = tissues.grid_value(tissue, "inside_um", centre_x, centre_y) > 0
    domain = tissues.domain_at(tissue, centre_x, centre_y)
    states = [tissues.grid_value(tissue, name, centre_x, centre_y) for name in STATES]
    total = np.asarray(spots.sum(axis=1)).ravel()
    write_tsv(
        folder / "spots.tsv",
        (
            {"row": i // columns, "col": i % columns, "transcripts": total[i]}
            | {"domain": DOMAINS[domain[i]] if inside[i] else "glass"}
            | {kind_name: types[i, t] for t, kind_name in enumerate(KINDS)}
            | {name: f"{value[i]:.4f}" for name, value in zip(STATES, states, strict=True)}
            for i in range(rows * columns)
        ),
        ("row", "col", "transcripts", "domain", *KINDS, *STATES),
    )
    domain = tissues.domain_at(tissue, x_um, y_um)
    in_cell = np.asarray(counts[:n_genes].sum(axis=0)).ravel()
    write_tsv(
        folder / "cells.tsv",
        (
            {
                "cell_id": cells["id"][i],
                "x_um": f"{x_um[i]:.4f}",
                "y_um": f"{y_um[i]:.4f}",
                "type": KINDS[kind[i]],
                "domain": DOMAINS[domain[i]],
                "transcripts": in_cell[i],
            }
            for i in range(len(index))
        ),
        ("cell_id", "x_um", "y_um", "type", "domain", "transcripts"),
    )
    write_json(
        folder / "tissue.json",
        {
            "sample": sample["sample"],
            "donor": sample["donor"],
            "seed": run_seed,
            "seeds": seeds,
            "simulation": knobs,
            "spot_um": knob.SPOT_UM,
            "grid": {"rows": rows, "columns": columns},
            "donor_expression_shift": {
                name: round(float(value), 6)
                for name, value in zip(features["name"][:n_genes], shift, strict=True)
            },
        }
        | picture,
    )

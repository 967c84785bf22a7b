"""A good input of each program, made from hand-made data, for others to spoil.

``GOOD[program](folder)`` writes the inputs to ``folder``/in and returns the call: ``flags`` and
``options`` of the program; what it makes goes to ``folder``/out.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = map(str, (TESTS, TESTS / "built", TESTS.parent / "scripts"))

import small_pairs  # noqa: E402
import tiny_bundle  # noqa: E402
from bundle_layouts import write_bundle_with_cells  # noqa: E402

GENES = small_pairs.GENES
DONORS = {"S1": "A", "S2": "B", "S3": "C"}
SQUARE55 = {"shape": "square", "size_um": 55.0, "min_qv": 20, "min_transcripts": 1}


def run(program: str, call: dict) -> None:
    """Call a program in this process, or check a configuration."""
    if program == "configuration":
        return _check_configuration(call["folder"])
    argv = []
    for name, value in call["flags"].items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            argv += [f"--{name.replace('_', '-')}", *map(str, values)]
    importlib.import_module(program).main([*argv, "--options", json.dumps(call["options"])])
    return None


def _check_configuration(folder: Path) -> None:
    from pairscape.plan.reading import read_plan

    path = folder / "config.yaml"
    read_plan(yaml.safe_load(path.read_text()), path)


def _check_bundle(folder: Path) -> dict:
    bundle = write_bundle_with_cells(folder / "in" / "outs")
    he, alignment = tiny_bundle.write_he(folder / "in")
    panels = folder / "in" / "panels"
    panels.mkdir()
    write_panel_list(panels / "tiny.tsv", tiny_bundle.GENES)
    write_panel_list(panels / "lung.tsv", ["SFTPC", "AGER", "SCGB1A1", "FOXJ1", "MKI67"])
    return {
        "flags": {
            "bundle": bundle,
            "he_image": he,
            "he_alignment": alignment,
            "panel": panels / "tiny.tsv",
            "report": folder / "out" / "check.json",
        },
        "options": {"sample": {"sample": "S1", "panel": "tiny", "he_um_per_px": "0.5"}},
    }


def write_panel_list(path: Path, genes) -> None:
    lines = [f"{gene}\tENSG{i:011d}" for i, gene in enumerate(genes)]
    path.write_text("\n".join(["gene_symbol\tensembl_id", *lines]) + "\n")


def _pool_spots(folder: Path) -> dict:
    call = _check_bundle(folder)
    flags = {name: call["flags"][name] for name in ("bundle", "he_image", "he_alignment")}
    files = {"spots": "spots.zarr", "audit": "audit.json", "table": "qc.tsv"}
    flags |= {name: folder / "out" / file for name, file in files.items()}
    options = {"sample": {"sample": "S1"}, "spots_name": "square55", "spots": dict(SQUARE55)}
    return {"flags": flags, "options": options}


def _show_spots(folder: Path) -> dict:
    pooled = _pool_spots(folder)
    made = ("spots", "audit", "table")
    files = {name: folder / "in" / pooled["flags"][name].name for name in made}
    run("pool_spots", {**pooled, "flags": pooled["flags"] | files})
    flags = {name: pooled["flags"][name] for name in ("bundle", "he_image")}
    flags |= {"spots": files["spots"], "table": files["table"]}
    return {"flags": flags | {"figure": folder / "out" / "qc.png"}, "options": {}}


def _fetch_bundle(folder: Path) -> dict:
    import shutil

    tiny_bundle.write_bundle(folder / "in" / "outs")
    archive = shutil.make_archive(folder / "in" / "mine", "zip", folder / "in", "outs")
    sample = {"sample": "S1", "source": "10x", "landing_page": "https://example.org/S1"}
    flags = {"bundle": folder / "out" / "S1", "archive": Path(archive)}
    return {"flags": flags, "options": {"sample": sample}}


def _select_genes(folder: Path) -> dict:
    paths = []
    for sample in DONORS:
        paths.append(folder / "in" / sample / "spots.zarr")
        write_spots(paths[-1], sample, GENES)
    return {
        "flags": {"spots": paths, "genes": folder / "out" / "genes.tsv"},
        "options": {"dataset": "tiny", "panel": "tiny", "samples": list(DONORS)},
    }


def write_spots(path: Path, sample: str, genes) -> None:
    small_pairs.write_small_spots(path, [[100, 100], [200, 100]], genes=genes, sample=sample)


def _split_donors(folder: Path) -> dict:
    (folder / "in").mkdir(parents=True)
    paths = []
    for sample in DONORS:
        paths.append(folder / "in" / f"{sample}.json")
        paths[-1].write_text(json.dumps({"sample": sample, "spots": 10}))
    out = folder / "out"
    return {
        "flags": {"spots": paths, "splits": out / "splits.tsv", "leakage": out / "leakage.tsv"},
        "options": {
            "dataset": "tiny",
            "split": {
                "method": "listed",
                "train": ["S1"],
                "val": ["S2"],
                "test": ["S3"],
                "shared_donors": None,
                "seed": 0,
            },
            "samples": rows(),
        },
    }


def rows() -> list[dict]:
    return [small_pairs.sample_row(name, donor=donor) for name, donor in DONORS.items()]


def _export_pairs(folder: Path) -> dict:
    place = folder / "in"
    matrix = small_pairs.alignment_matrix(0.34, 30.0, True, (900.0, 250.0))
    he_px = [[150.0, 150.0], [400.0, 350.0], [660.0, 520.0]]
    spots = place / "spots.zarr"
    small_pairs.write_small_spots(spots, small_pairs.xenium_um(matrix, he_px), sample="S1")
    small_pairs.write_slide(place / "he.ome.tif", small_pairs.tissue_image())
    np.savetxt(place / "alignment.csv", matrix, delimiter=",")
    lines = [f"{gene}\tENSG{gene}\n" for gene in GENES]
    (place / "genes.tsv").write_text("gene_symbol\tgene_id\n" + "".join(lines))
    return {
        "flags": {
            "spots": spots,
            "he_image": place / "he.ome.tif",
            "he_alignment": place / "alignment.csv",
            "genes": place / "genes.tsv",
            "shard": folder / "out" / "S1.arrow",
        },
        "options": {
            "sample": small_pairs.sample_row("S1"),
            "dataset": "tiny",
            "patches": dict(small_pairs.PATCHES),
            "labels": small_pairs.LABELS,
        },
    }


def _describe_dataset(folder: Path) -> dict:
    place = folder / "in"
    split = _split_donors(folder / "in" / "split")
    split["flags"]["splits"] = place / "splits.tsv"
    split["flags"]["leakage"] = place / "leakage.tsv"
    run("split_donors", split)
    shards = [
        small_pairs.export_sample(place, sample, image=small_pairs.tissue_image(seed=seed))
        for seed, sample in enumerate(DONORS)
    ]
    return {
        "flags": {
            "shards": shards,
            "genes": place / "genes.tsv",
            "splits": place / "splits.tsv",
            "leakage": place / "leakage.tsv",
            "patch_leakage": folder / "out" / "patch_leakage.tsv",
            "layout": [folder / "out" / f"{split}.csv" for split in ("train", "val", "test")],
            "preview": folder / "out" / "preview.jpg",
            "card": folder / "out" / "README.md",
        },
        "options": {"dataset": "tiny", "config_name": "tiny", "samples": rows()},
    }


def _index_datasets(folder: Path) -> dict:
    place = folder / "in"
    call = _describe_dataset(folder)
    call["flags"] |= {"card": place / "README.md", "patch_leakage": place / "patch_leakage.tsv"}
    call["flags"]["layout"] = [place / f"{split}.csv" for split in ("train", "val", "test")]
    call["flags"]["preview"] = place / "preview.jpg"
    run("describe_dataset", call)
    return {
        "flags": {"cards": [place / "README.md"], "card": folder / "out" / "README.md"},
        "options": {"title": "Test"},
    }


def _configuration(folder: Path) -> dict:
    place = folder / "in"
    (place / "panels").mkdir(parents=True)
    write_panel_list(place / "panels" / "tiny.tsv", tiny_bundle.GENES)
    table = ["sample\tpanel\tdonor\tsource\tbundle\the_image\the_um_per_px"]
    table += [f"{name}\ttiny\t{donor}\tlocal\t\t\t0.5" for name, donor in DONORS.items()]
    (place / "samples.tsv").write_text("\n".join(table) + "\n")
    config = {
        "title": "Test",
        "results": str(place / "results"),
        "bundles": str(place / "bundles"),
        "samples": str(place / "samples.tsv"),
        "panels": str(place / "panels"),
        "encoders": str(TESTS.parent / "config" / "encoders"),
        "spots": {"square55": {"shape": "square", "size_um": 55}},
        "patches": {"p32": {"um_per_px": 0.5, "patch_px": 32}},
        "datasets": {
            "tiny": {
                "panel": "tiny",
                "spots": "square55",
                "patches": "p32",
                "split": {"method": "listed", "train": ["S1"], "val": ["S2"], "test": ["S3"]},
            }
        },
        "experiments": {},
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return {"folder": place, "flags": {}, "options": {}}


GOOD = {
    "check_bundle": _check_bundle,
    "pool_spots": _pool_spots,
    "show_spots": _show_spots,
    "fetch_bundle": _fetch_bundle,
    "select_genes": _select_genes,
    "split_donors": _split_donors,
    "export_pairs": _export_pairs,
    "describe_dataset": _describe_dataset,
    "index_datasets": _index_datasets,
    "configuration": _configuration,
}

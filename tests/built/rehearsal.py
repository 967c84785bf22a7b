"""A rehearsal of the published benchmark: its configuration, on simulated tissue, by small encoders.

    python tests/built/rehearsal.py results/rehearsal

writes config.yaml, samples.tsv, encoders/ and weights/ into the folder, all made from the published
configuration at hand: the names, panels, donors and splits are its own, and so are the encoders'
widths and the layout of their files. Prints the targets to ask Snakemake for. `make rehearsal` runs it.
"""

import argparse
import functools
import math
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import safetensors.torch
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/encoders"), str(ROOT / "tests/built")]

import test_scfoundation  # noqa: E402

from pairscape.core.splits import SPLITS  # noqa: E402
from pairscape.core.tsv import read_tsv  # noqa: E402
from pairscape.encoders import image_encoders, specs  # noqa: E402
from pairscape.encoders.architectures import nicheformer, scfoundation  # noqa: E402

# Of each encoder what makes it small; the widths are what they are.
SMALL = {
    ("image", "ctranspath"): {"img_size": 32, "depths": [1, 1, 1, 1]},
    ("image", "conch"): {"img_size": 32, "depth": 1, "mlp_ratio": 0.25},
    ("image", "gigapath"): {"img_size": 32, "depth": 1, "mlp_ratio": 0.25},
    ("image", "h0_mini"): {"img_size": 28, "depth": 1, "mlp_ratio": 0.25},
    ("image", "uni"): {"img_size": 32, "depth": 1, "mlp_ratio": 0.25},
    ("gene", "nicheformer"): {"layers": 1, "feed_forward": 64, "context_length": 60},
    ("gene", "scfoundation"): {"layers": 1, "feed_forward": 64},
    ("gene", "drvi"): {"epochs": 2, "kl_warmup_epochs": 2},
}
# How an encoder names the size of its vocabulary, and what is added to the number of genes.
VOCABULARY = {"nicheformer": "n_tokens", "scfoundation": "genes"}
RESERVED = {"nicheformer": nicheformer.RESERVED_TOKENS, "scfoundation": 0}
FLOOR = "tf_efficientnet_lite0_untrained"  # beside the benchmark's; it takes pictures of any size
PATCH_PX = 32
WIDTH_UM = 550
MINIATURE = {
    "datasets": ["human-colon-panel", "human-immuno-oncology-panel"],
    "image_encoders": ["uni"],
    "gene_encoders": ["mlp", "nicheformer"],
}
# What the table says of files that the simulation makes otherwise.
OF_FILES = ("bundle", "he_image", "he_alignment", "he_layout", "he_um_per_px", "geo_accession")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--miniature", action="store_true", help="two panels, three samples and two pairs each"
    )
    parser.add_argument("--leave-out", nargs="*", default=[], help="samples that can't be had")
    args = parser.parse_args(argv)
    published = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    args.folder.mkdir(parents=True, exist_ok=True)
    config = configuration(published, args.folder)
    if args.miniature:
        config = miniature(config, ROOT / "config/published/splits.tsv")
    if args.leave_out:
        config["missing_samples"] = "leave_out"
    for sample in args.leave_out:
        shutil.rmtree(args.folder / "samples" / sample, ignore_errors=True)
        shutil.rmtree(args.folder / "bundles" / sample, ignore_errors=True)
    write(args.folder / "config.yaml", as_yaml(config))
    write(args.folder / "samples.tsv", sample_table(ROOT / published["samples"], args.leave_out))
    write_encoders(args.folder)
    print(*targets(config))


def configuration(published: Mapping, folder: Path) -> dict:
    """The published configuration with other places, small tissue and short trainings."""
    side = {"width_um": WIDTH_UM, "height_um": WIDTH_UM}
    return {
        **published,
        "title": "Rehearsal of the published benchmark on simulated tissue",
        **{name: f"{folder}/{name}" for name in ("bundles", "weights", "encoders", "slides")},
        "results": str(folder),
        "samples": f"{folder}/samples.tsv",
        "simulations": {"speck": {**side, "transcripts_per_spot": 120, "he_um_per_px": 1}},
        "patches": {name: small_patch(of) for name, of in published["patches"].items()},
        "experiments": {
            name: short_experiment(of, frozen=name == "benchmark")
            for name, of in published["experiments"].items()
        },
        "retrieval": {"bootstrap": 100, "permutations": 99, "block_um": 110},
    }


def miniature(config: Mapping, splits: Path) -> dict:
    """Of two panels one sample in each split, and of the encoders two pairs."""
    rows, datasets = read_tsv(splits, ["panel", "sample", "split"]), {}
    for name, of in config["datasets"].items():
        placed = {row["split"]: row["sample"] for row in rows if row["panel"] == of.get("panel")}
        chosen = [placed[split] for split in SPLITS if split in placed]
        asked = {"samples": chosen} if name in MINIATURE["datasets"] else {"on_request": True}
        datasets[name] = of | asked
    benchmark = config["experiments"]["benchmark"] | MINIATURE
    return config | {"datasets": datasets, "experiments": {"benchmark": benchmark}, "audit": {}}


def targets(config: Mapping) -> list[str]:
    """All that a plain run makes, and each table and figure of the paper that compares."""
    results, experiments = config["results"], config["experiments"]
    corrected = [name for name, of in experiments.items() if of.get("protocol") != "published"]
    # Levels of one ablation are compared in one table.
    compared = dict.fromkeys("_".join(name.split("_")[:2]) for name in corrected)
    gaps = [f"{results}/tables/published-gap_{name}.md" for name in compared]
    shown = [
        f"{results}/{kind}/retrieval_{name}.{end}"
        for kind, end in (("tables", "md"), ("figures", "png"))
        for name in corrected
    ]
    return ["all", "audit_splits", *gaps, *shown]


def small_patch(patch: Mapping) -> dict:
    """The same field of view in few pixels; native pixels stay native."""
    if "native_px" in patch:
        return {**patch, "native_px": PATCH_PX}
    um = patch["um_per_px"] * patch["patch_px"]
    return {**patch, "um_per_px": um / PATCH_PX, "patch_px": PATCH_PX}


def short_experiment(experiment: Mapping, frozen: bool) -> dict:
    """One seed and 20 steps on one device."""
    short = {"devices": 1, "batch_size": 32, "max_steps": 20, "warmup_steps": 2}
    short |= {"validate_every": 10} | ({"image_tuning": "frozen"} if frozen else {})
    training = {**experiment.get("training", {}), **short}
    return {**experiment, "seeds": experiment["seeds"][:1], "training": training}


def sample_table(path: Path, left_out: Iterable[str]) -> str:
    """The published sample table with all samples simulated, but for those that can't be had."""
    rows = read_tsv(path, ["sample", "source"])
    columns = [*rows[0], "simulation"]
    lines = ["\t".join(columns)]
    for row in rows:
        of_files = [c for c in row if c in OF_FILES or c.endswith(("_url", "_bytes", "_checksum"))]
        row |= dict.fromkeys(of_files, "")
        if row["sample"] in left_out:
            row |= {"source": "local", "simulation": ""}  # and nothing lies in <bundles>
        else:
            row |= {"source": "simulated", "simulation": "speck"}
        lines.append("\t".join(row[column] for column in columns))
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------- encoders


def write_encoders(folder: Path) -> None:
    """All encoders' files, those of SMALL and their variants small, and the files of their weights."""
    encoders = folder / "encoders"
    shutil.copytree(ROOT / "config/encoders", encoders, dirs_exist_ok=True)
    floor = specs.encoder_file(encoders, "image", FLOOR)
    small = {"input": {"resize_px": PATCH_PX, "crop_px": PATCH_PX}}
    write(floor, as_yaml(yaml.safe_load(floor.read_text()) | small))
    for (kind, name), arguments in SMALL.items():
        spec = specs.read_encoder(encoders, kind, name)
        real_px = spec["arguments"].get("img_size")
        spec["arguments"] |= arguments
        if spec["learned_from" if kind == "gene" else "kind"] == "weights":
            spec["arguments"] |= {VOCABULARY[name]: len(vocabulary(name)) + RESERVED[name]}
        write(specs.encoder_file(encoders, kind, name), as_yaml(spec))
        family = [
            other
            for other in specs.list_encoders(encoders, kind)
            if specs.read_encoder(encoders, kind, other).get("variant_of", other) == name
        ]
        for other in family:
            make_small(specs.encoder_file(encoders, kind, other), real_px)
        weights = folder / "weights" / kind / name
        if name in WRITERS and not weights.exists():
            weights.mkdir(parents=True)
            WRITERS[name](specs.read_encoder(encoders, kind, name), weights)


def make_small(file: Path, real_px: int | None) -> None:
    """Correct what follows from small arguments in an encoder's file: pixels, parameters."""
    kind, name = file.parent.name, file.stem
    own = yaml.safe_load(file.read_text())
    spec = specs.read_encoder(file.parents[1], kind, name)
    if kind == "image":
        small_px, read = spec["arguments"]["img_size"], spec["input"]
        patch, scale = 16 if small_px % 16 == 0 else 14, small_px / (real_px or read["crop_px"])
        crop = math.ceil(read["crop_px"] * scale / patch) * patch
        resize = max(crop, round(read["resize_px"] * scale))
        own["input"] = own.get("input", {}) | {"resize_px": resize, "crop_px": crop}
    if kind == "image" or spec["learned_from"] == "weights":
        with torch.device("meta"):
            own["parameters"] = sum(one.numel() for one in network(spec).parameters())
    write(file, as_yaml(own))


def network(spec: Mapping) -> torch.nn.Module:
    """An encoder's network."""
    if spec["kind"] == "image":
        return image_encoders.BUILDERS[spec["builder"]](spec)
    builders = {"nicheformer": nicheformer.Network, "scfoundation": scfoundation.Encoder}
    return builders[spec["builder"]](spec["arguments"])


def state(spec: Mapping) -> dict[str, torch.Tensor]:
    """The entries of an encoder's network with random weights."""
    torch.manual_seed(0)
    return network(spec).state_dict()


@functools.cache
def vocabulary(name: str) -> list[str]:
    """The genes of all published panels, as an encoder names them."""
    column = "ensembl_id" if name == "nicheformer" else "gene_symbol"
    lists = sorted((ROOT / "config/published/panels").glob("*.tsv"))
    return sorted({row[column] for file in lists for row in read_tsv(file, [column])})


def write_same(spec, folder):
    torch.save(state(spec), folder / spec["weights"]["file"])


def write_conch(spec, folder):
    entries = {f"visual.{name}": value for name, value in state(spec).items()}
    torch.save(entries, folder / spec["weights"]["file"])


def write_ctranspath(spec, folder):
    def official(name):
        stage = re.fullmatch(r"layers\.(\d+)\.(downsample\..*)", name)
        return f"layers.{int(stage[1]) - 1}.{stage[2]}" if stage else name

    entries = {official(name): value for name, value in state(spec).items()}
    torch.save({"model": entries}, folder / spec["weights"]["file"])


def write_nicheformer(spec, folder):
    entries = {f"nicheformer.{name}": value for name, value in state(spec).items()}
    safetensors.torch.save_file(entries, folder / spec["weights"]["file"])
    genes = vocabulary("nicheformer")
    anndata.AnnData(
        np.zeros((1, len(genes)), np.float32), var=pd.DataFrame(index=genes)
    ).write_h5ad(folder / "model.h5ad")
    np.save(folder / "xenium_mean_script.npy", 1 + np.arange(len(genes)) % 7.0)


def write_scfoundation(spec, folder):
    arguments = spec["arguments"]
    entries = {f"model.{name}": value for name, value in state(spec).items()}
    part = {"state_dict": entries, "config": test_scfoundation.configuration(arguments)}
    torch.save({key: part for key in ("cell", "gene")}, folder / spec["weights"]["file"])
    lines = [f"{gene}\t{i}" for i, gene in enumerate(vocabulary("scfoundation"))]
    write(folder / spec["weights"]["extra_files"][0], "\n".join(["gene_name\tindex", *lines, ""]))


WRITERS = {
    **dict.fromkeys(("gigapath", "h0_mini", "uni"), write_same),
    "conch": write_conch,
    "ctranspath": write_ctranspath,
    "nicheformer": write_nicheformer,
    "scfoundation": write_scfoundation,
}


def as_yaml(value) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def write(file: Path, text: str) -> None:
    """Write a file unless it holds just that: what is older than its results makes none anew."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

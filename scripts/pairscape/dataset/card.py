"""Cards (README.md) that make folders of shards a Hugging Face data set.

What was found with datasets 5.2: the shards of each split are named one by one under ``configs``
(no globs, ``val`` allowed, a shard may stand in two splits), with paths relative to the card. The
user's cache serves stale rows after a shard changes unless the config's ``version`` changes, so it
is derived from the shards' checksums.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.splits import SPLITS
from pairscape.dataset.leakage import (
    HARD,
    describe_leaks,
    is_placeholder,
    summarise_leaks,
    summary_text,
)

FENCE = "---\n"
LAYOUT_SUFFIX = "-published-layout"
LAYOUT_PX = 512  # the centre crop of the code written for the published data set
# Of the split files that stand beside the published data set.
LAYOUT_COLUMNS = (
    "dataset_title",
    "gene_panel",
    "id",
    "organ",
    "disease_state",
    "patient",
    "preservation_method",
    "pixel_size_um_estimated",
    "magnification",
)


def dataset_version(major: int, shards: Iterable[tuple[str, str, str]]) -> str:
    """A version ``major.x.y`` that changes with the shards or their splits.

    Parameters
    ----------
    shards
        (split, sample, SHA-256 of the shard).
    """
    digest = hashlib.sha256(json.dumps(sorted(shards)).encode()).hexdigest()
    return f"{major}.{int(digest[:7], 16)}.{int(digest[7:14], 16)}"


def dataset_config(
    name: str, version: str, files: Mapping[str, Sequence], card, features
) -> dict[str, dict]:
    """The front matter's entries of one config.

    Parameters
    ----------
    name, version
        Of the config.
    files
        Shards of each split.
    card
        Path of the card, to which the shards' paths become relative.
    features
        datasets.Features of the shards.

    Returns
    -------
    ``config`` (an entry of ``configs``) and ``info`` (an entry of ``dataset_info``).
    """
    from datasets.info import DatasetInfo

    folder = Path(card).resolve().parent
    return {
        "config": {
            "config_name": name,
            "version": version,
            "data_files": [
                {
                    "split": split,
                    "path": [
                        Path(os.path.relpath(Path(path).resolve(), folder)).as_posix()
                        for path in files[split]
                    ],
                }
                for split in SPLITS
                if files.get(split)
            ],
        },
        "info": {
            "config_name": name,
            "features": DatasetInfo(features=features)._to_yaml_dict()["features"],
        },
    }


def layout_files(splits: Sequence[Mapping], paths: Mapping) -> dict[str, list]:
    """The files of a config in the layout of the published data set: every shard once, as train."""
    samples = dict.fromkeys(row["sample"] for row in splits)
    return {"train": [paths[sample] for sample in sorted(samples)]}


def write_layout(folder, splits: Sequence[Mapping], samples: Mapping[str, Mapping]) -> None:
    """Write train.csv, val.csv and test.csv as they stand beside the published data set.

    The code written for it looks for them in ``data/<config>/``. Column ``id`` is what the rows'
    ``name`` is matched with. A split without samples gets a header.

    Parameters
    ----------
    samples
        Rows of the sample table by sample.
    """
    for split in SPLITS:
        with (
            atomic_path(Path(folder) / f"{split}.csv") as temporary,
            open(temporary, "w", newline="") as handle,
        ):
            writer = csv.DictWriter(handle, LAYOUT_COLUMNS, lineterminator="\n")
            writer.writeheader()
            for row in splits:
                fact = samples[row["sample"]]
                if row["split"] == split:
                    writer.writerow(
                        {
                            "dataset_title": fact.get("title", ""),
                            "gene_panel": fact.get("panel", ""),
                            "id": row["sample"],
                            "organ": fact.get("organ", ""),
                            "disease_state": fact.get("disease_state", ""),
                            "patient": row["donor"] if row["donor_known"] != "False" else "",
                            "preservation_method": fact.get("preservation", ""),
                            "pixel_size_um_estimated": fact.get("he_um_per_px", ""),
                            "magnification": "",
                        }
                    )


def layout_warning(patches: Iterable[Mapping]) -> str:
    """What the code written for the published data set makes of patches that are smaller than its.

    Parameters
    ----------
    patches
        ``patches`` of each shard's metadata.

    Returns
    -------
    A sentence for a log and a card; empty where every patch is large enough.
    """
    smallest = min(one["patch_px"] for one in patches)
    if smallest >= LAYOUT_PX:
        return ""
    black = 1 - (smallest / LAYOUT_PX) ** 2
    return (
        f"patches of {smallest} px are smaller than the {LAYOUT_PX} px that code written for the "
        f"published data set crops from the centre: it pads them with black, {black:.0%} of its "
        f"crop; for that code make the dataset with patches of {{native_px: {LAYOUT_PX}}}"
    )


def front_matter(title: str, licences: Iterable[str], entries: Iterable[Mapping]) -> str:
    """The YAML head of a card. ``entries`` come from ``dataset_config``."""
    entries = list(entries)
    head = {
        "pretty_name": title,
        "license": "other",
        "license_name": "; ".join(sorted({text for text in licences if text})) or "not stated",
        "tags": ["biology", "spatial-transcriptomics", "histopathology", "xenium"],
        "configs": [entry["config"] for entry in entries],
        "dataset_info": [entry["info"] for entry in entries],
    }
    return FENCE + yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100) + FENCE


def read_front_matter(path) -> dict:
    """The YAML head of a card."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "run describe_dataset") from None
    parts = text.split(FENCE, 2)
    remedy = "delete it and run describe_dataset again"
    if len(parts) < 3 or parts[0]:
        raise InputError(path, "front matter", "none", remedy)
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise InputError(path, "front matter", str(error), remedy) from None
    for key in ("configs", "dataset_info"):
        if not isinstance(head, dict) or not isinstance(head.get(key), list):
            raise InputError(path, "front matter", f"no list `{key}`", remedy)
    return head


def move_configs(head: Mapping, card, target) -> list[dict[str, dict]]:
    """The configs of ``card``, with the paths of their files made relative to ``target``."""
    folder = Path(card).resolve().parent
    base = Path(target).resolve().parent
    infos = {info["config_name"]: info for info in head["dataset_info"]}
    return [
        {
            "config": {
                **{key: value for key, value in config.items() if key != "default"},
                "data_files": [
                    {
                        **files,
                        "path": [
                            Path(os.path.relpath(folder / path, base)).as_posix()
                            for path in files["path"]
                        ],
                    }
                    for files in config["data_files"]
                ],
            },
            "info": infos[config["config_name"]],
        }
        for config in head["configs"]
    ]


def dataset_text(
    *,
    dataset: str,
    version: str,
    genes: Sequence[Mapping],
    genes_path: str,
    shards: Mapping[str, Mapping],
    splits: Sequence[Mapping],
    leaks: Sequence[Mapping],
    samples: Mapping[str, Mapping],
) -> str:
    """What stands below the head of a dataset's card, for people.

    Parameters
    ----------
    genes, genes_path
        Rows of genes.tsv, and its path from the card.
    shards
        For each sample ``pairs`` (rows), ``sha256`` and ``metadata`` (see ``pairs``).
    splits, leaks
        See ``splits`` and ``leakage``.
    samples
        Rows of the sample table by sample.
    """
    any_shard = next(iter(shards.values()))["metadata"]
    imported = any_shard["patches"]["encoding"] == "published"
    pairs = sum(shards[row["sample"]]["pairs"] for row in splits)
    left_out = sum(shard["metadata"].get("spots_left_out", 0) for shard in shards.values())
    warning = layout_warning(shard["metadata"]["patches"] for shard in shards.values())
    parts = [
        f"# {dataset}",
        f"Image-gene pairs of {len(shards)} Xenium sample(s) from "
        f"{len({row['donor'] for row in splits})} donor(s): the H&E patch around each "
        f"pseudo-spot, and the raw counts of {len(genes)} genes in the spot. {pairs:,} pairs; "
        f"version {version}. Built by Pairscape.",
    ]
    hard = [leak for leak in leaks if leak["finding"] in HARD]
    if hard:
        told = "; ".join(describe_leaks(hard))
        words = "; ".join(sorted({leak["acknowledged"] for leak in hard if leak["acknowledged"]}))
        parts.append(
            f"**Not donor-disjoint: {told}. {'; '.join(_touched(dataset, splits, hard))}. "
            f"Stated reason: {words or 'none'}.**"
        )
    else:
        unknown = {row["sample"] for row in splits if is_placeholder(row)}
        parts.append(
            f"No donor is known to stand in two splits; of {len(unknown)} of {len(shards)} samples no "
            "source names the donor."
            if unknown
            else "No donor stands in two splits."
        )
    soft = [leak for leak in leaks if leak["finding"] not in HARD]
    if soft:
        parts.append(
            "Also found between splits (`leakage.tsv`, `patch_leakage.tsv`):\n\n"
            + "\n".join(f"- {told}" for told in _touched(dataset, splits, soft))
        )
    parts += [
        "```python\nfrom datasets import load_dataset\n\n"
        f'load_dataset("<results>/datasets", "{dataset}", split="{splits[0]["split"]}")\n```',
        "## Samples",
        _table(
            ["split", "sample", "donor", "organ", "disease state", "spots", "pairs"],
            [
                [
                    row["split"],
                    row["sample"],
                    row["donor"] + (" (placeholder)" if is_placeholder(row) else ""),
                    row["organ"],
                    row["disease_state"],
                    "" if row["spots"] is None else row["spots"],
                    shards[row["sample"]]["pairs"],
                ]
                for row in splits
            ],
        ),
        f"A placeholder donor is one that no source names. {left_out} spot(s) have no pair: their "
        "patch reaches beyond the H&E.",
        f"Config `{dataset}{LAYOUT_SUFFIX}` lists the same rows as one split `train`, as the "
        "published data set does; `{train,val,test}.csv` in "
        f"`data/{dataset}{LAYOUT_SUFFIX}/` say which `name` is in which split."
        + (f" **Note: {warning}.**" if warning else ""),
        "## What a pair holds",
        f"- `image`: {_patches([shard['metadata']['patches'] for shard in shards.values()])}, "
        "centred on the spot, axes of the H&E\n"
        f"- `gexp`: (1, {len(genes)}) raw counts, in the order of `{genes_path}` (by symbol)\n"
        "- `cell_coords`: centre in full-resolution H&E pixels; `x_um`, `y_um`: in "
        f"{'µm of the H&E' if imported else 'Xenium µm'}\n"
        "- `name`, `source`, `tissue`: labels\n"
        "- `sample`, `donor`, `spot`, `array_row`, `array_col`: whose pair it is\n"
        "- `tissue_fraction`: share of the patch's pixels with a luma below 80 % of white\n"
        "- the other columns are those of the published data set, empty where not known",
        f"Spots: {_preset(any_shard['spots'])}",
        "## Provenance",
        _table(
            ["sample", "title", "source", "licence", "shard (SHA-256)"],
            [
                [
                    name,
                    _linked(samples[name].get("title", ""), samples[name].get("landing_page", "")),
                    samples[name].get("source", ""),
                    samples[name].get("license", "") or "not stated",
                    f"`{shard['sha256'][:16]}`",
                ]
                for name, shard in shards.items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def index_text(title: str, datasets: Iterable[Mapping]) -> str:
    """What stands below the head of the card over all datasets.

    Parameters
    ----------
    datasets
        For each its ``name``, ``version``, ``splits`` (split to number of shards) and ``card``
        (path relative to this one).
    """
    datasets = list(datasets)
    rows = [
        [
            f"[{dataset['name']}]({dataset['card']})",
            dataset["version"],
            ", ".join(f"{split} {count}" for split, count in dataset["splits"].items()),
        ]
        for dataset in datasets
    ]
    return (
        "\n\n".join(
            [
                f"# {title}",
                "Image-gene pairs from Xenium bundles, one config per dataset. Built by Pairscape.",
                "```python\nfrom datasets import load_dataset\n\n"
                f'load_dataset("<this folder>", "{datasets[0]["name"]}", split="test")\n```',
                _table(["config", "version", "samples in each split"], rows),
            ]
        )
        + "\n"
    )


def _touched(dataset: str, splits: Sequence[Mapping], leaks: Sequence[Mapping]) -> list[str]:
    """How much of each later split the findings touch, a sentence each."""
    rows = [{**row, "spots": "" if row["spots"] is None else row["spots"]} for row in splits]
    return [summary_text(row) for row in summarise_leaks(dataset, rows, leaks, "pooled")]


def _patches(patches: Sequence[Mapping]) -> str:
    """The size, scale and encoding of the patches of a dataset's shards."""
    one = patches[0]
    encoded = one["encoding"].upper() if one["encoding"] in ("jpeg", "png") else "as published"
    if one["encoding"] == "jpeg":
        encoded += f" (quality {one['quality']})" if "quality" in one else ""
    if not one.get("native_px"):
        field_um = one["patch_px"] * one["um_per_px"]
        return (
            f"{one['patch_px']} x {one['patch_px']} pixels at {one['um_per_px']:g} µm per pixel "
            f"({field_um:g} µm field of view), {encoded}"
        )
    scales = sorted({round(patch["um_per_px"], 4) for patch in patches})
    told = f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}"
    return (
        f"{one['patch_px']} x {one['patch_px']} pixels of the H&E as scanned (column `um_per_px`: "
        f"{told} µm per pixel), {encoded}"
    )


def _linked(title: str, address: str) -> str:
    return f"[{title or 'page'}]({address.strip()})" if address.strip() else title


def _preset(made_by: Mapping) -> str:
    preset = made_by.get("preset", made_by.get("spots", {}))
    if not isinstance(preset, Mapping):
        return f"preset `{preset}`."
    told = ", ".join(
        f"{key} {'given' if isinstance(value, Mapping) else value}"
        for key, value in preset.items()
        if value is not None
    )
    return f"{told or 'not stated'}."


def _table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])

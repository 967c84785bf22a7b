"""Cards (README.md) that make folders of shards a Hugging Face data set.

What was found with datasets 5.2: the shards of each split are named one by one under ``configs``
(no globs, ``val`` allowed, a shard may stand in two splits), with paths relative to the card. The
user's cache serves stale rows after a shard changes unless the config's ``version`` changes, so it
is derived from the shards' checksums.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from pairscape.errors import InputError
from pairscape.splits import SPLITS, describe_leaks

FENCE = "---\n"


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
    """The YAML head of a card.

    Raises
    ------
    InputError
        The card is missing or has no head with ``configs``.
    """
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
                **config,
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
    shards: Mapping[str, Mapping],
    splits: Sequence[Mapping],
    leaks: Sequence[Mapping],
    samples: Mapping[str, Mapping],
) -> str:
    """What stands below the head of a dataset's card, for people.

    Parameters
    ----------
    shards
        For each sample ``pairs`` (rows), ``sha256`` and ``metadata`` (see ``pairs``).
    splits, leaks
        See ``splits``.
    samples
        Rows of the sample table by sample.
    """
    any_shard = next(iter(shards.values()))["metadata"]
    patches = any_shard["patches"]
    field_um = patches["patch_px"] * patches["um_per_px"]
    quality = f" (quality {patches['quality']})" if patches["encoding"] == "jpeg" else ""
    pairs = sum(shards[row["sample"]]["pairs"] for row in splits)
    left_out = sum(shard["metadata"].get("spots_left_out", 0) for shard in shards.values())
    parts = [
        f"# {dataset}",
        f"Image-gene pairs of {len(shards)} Xenium sample(s) from "
        f"{len({row['donor'] for row in splits})} donor(s): the H&E patch around each "
        f"pseudo-spot, and the raw counts of {len(genes)} genes in the spot. {pairs:,} pairs; "
        f"version {version}. Built by Pairscape.",
    ]
    if leaks:
        told = "; ".join(describe_leaks(leaks))
        words = "; ".join(sorted({leak["acknowledged"] for leak in leaks if leak["acknowledged"]}))
        parts.append(
            f"**Not donor-disjoint: {told}. {_touched(splits, leaks)}. "
            f"Stated reason: {words or 'none'}.**"
        )
    else:
        parts.append("No donor stands in two splits.")
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
                    row["donor"] + ("" if row["donor_known"] == "True" else " (placeholder)"),
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
        "## What a pair holds",
        f"- `image`: {patches['patch_px']} x {patches['patch_px']} pixels at "
        f"{patches['um_per_px']:g} µm per pixel ({field_um:g} µm field of view), "
        f"{patches['encoding'].upper()}{quality}, centred on the spot, axes of the H&E\n"
        f"- `gexp`: (1, {len(genes)}) raw counts, in the order of `genes.tsv` (by symbol)\n"
        "- `cell_coords`: centre in full-resolution H&E pixels; `x_um`, `y_um`: in Xenium µm\n"
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
                    samples[name].get("title", ""),
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


def _touched(splits: Sequence[Mapping], leaks: Sequence[Mapping]) -> str:
    """How much of each later split shares a donor with an earlier one."""
    told = []
    for later in ("test", "val"):
        of_split = [row for row in splits if row["split"] == later]
        for earlier in SPLITS[: SPLITS.index(later)]:
            names = {
                leak["sample"]
                for leak in leaks
                if leak["split"] == later and leak["other_split"] == earlier
            }
            if not names:
                continue
            text = f"{len(names)} of {len(of_split)} {later} sample(s)"
            spots = [row["spots"] for row in of_split]
            if None not in spots and sum(spots):
                share = sum(row["spots"] for row in of_split if row["sample"] in names) / sum(spots)
                text += f" ({share:.0%} of its spots)"
            told.append(f"{text} share a donor with {earlier}")
    return ", ".join(told)


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

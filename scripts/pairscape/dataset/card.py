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

from pairscape.core import tsv
from pairscape.core.errors import InputError, missing_file
from pairscape.core.splits import SPLITS

FENCE = "---\n"
LAYOUT_SUFFIX = "-published-layout"
PREVIEW = "preview.jpg"  # the picture beside a card
# The Hub's names of licences as sample tables write them; of the others it shows the text.
LICENCES = {
    "bsd-3-clause": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "cc0 1.0": "cc0-1.0",
    "cc by 4.0": "cc-by-4.0",
    "creative commons attribution 4.0 international": "cc-by-4.0",
    "creative commons attribution": "cc",  # as 10x Genomics states it: without its version
    "mit": "mit",
}
NOT_STATED = "not stated"
SIZES = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M"))
LAYOUT_PX = 512  # the centre crop of the code written for the published data set
# The columns of the split files that stand beside the published data set, and those of the sample
# table that they are filled from.
LAYOUT_COLUMNS = {
    "dataset_title": "title",
    "gene_panel": "panel",
    "id": "",
    "organ": "organ",
    "disease_state": "disease_state",
    "patient": "",
    "preservation_method": "preservation",
    "pixel_size_um_estimated": "he_um_per_px",
    "magnification": "",
}


def dataset_version(major: int, shards: Iterable[tuple[str, str, str]]) -> str:
    """A version ``major.x.y`` that changes with the shards: (split, sample, SHA-256) of each."""
    digest = hashlib.sha256(json.dumps(sorted(shards)).encode()).hexdigest()
    return f"{major}.{int(digest[:7], 16)}.{int(digest[7:14], 16)}"


def dataset_config(
    name: str, version: str, files: Mapping[str, Sequence], card, features
) -> dict[str, dict]:
    """The front matter's entries of one config: ``config`` and ``info``.

    ``files`` are the shards of each split, whose paths become relative to the path of the card;
    ``features`` the datasets.Features of the shards.
    """
    from datasets.info import DatasetInfo

    data_files = [
        {"split": split, "path": [relative(Path(path).resolve(), card) for path in files[split]]}
        for split in SPLITS
        if files.get(split)
    ]
    features = DatasetInfo(features=features)._to_yaml_dict()["features"]
    return {
        "config": {"config_name": name, "version": version, "data_files": data_files},
        "info": {"config_name": name, "features": features},
    }


def relative(path, card) -> str:
    """The path of a file from the folder of a card on, as it stands in the card."""
    return Path(os.path.relpath(path, Path(card).resolve().parent)).as_posix()


def write_layout(folder, splits: Sequence[Mapping], samples: Mapping[str, Mapping]) -> None:
    """Write train.csv, val.csv and test.csv as they stand beside the published data set.

    The code written for it looks for them in ``data/<config>/``. Column ``id`` is what the rows'
    ``name`` is matched with. A split without samples gets a header. ``samples`` are rows of the
    sample table by sample.
    """
    for split in SPLITS:
        rows = [_layout_row(row, samples) for row in splits if row["split"] == split]
        tsv.write_tsv(Path(folder) / f"{split}.csv", rows, LAYOUT_COLUMNS, delimiter=",")


def _layout_row(row: Mapping, samples: Mapping[str, Mapping]) -> dict:
    sample = samples[row["sample"]]
    facts = {column: sample.get(key, "") for column, key in LAYOUT_COLUMNS.items()}
    patient = row["donor"] if row["donor_known"] != "False" else ""
    return facts | {"id": row["sample"], "patient": patient}


def layout_warning(patches: Iterable[Mapping]) -> str:
    """What the code written for the published data set makes of patches that are smaller than its.

    From ``patches`` of each shard's metadata; empty where every patch is large enough.
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


def front_matter(
    title: str, licences: Iterable[str], entries: Iterable[Mapping], pairs: int
) -> str:
    """The YAML head of a card, as the Hub reads it.

    ``licences`` are those of the samples, as the sample table or another card (see ``licences_of``)
    names them; ``entries`` come from ``dataset_config``; ``pairs`` are those of all their splits.
    """
    entries = list(entries)
    head = {
        "pretty_name": title,
        **_licence(licences),
        "task_categories": ["image-feature-extraction"],
        "size_categories": [size_category(pairs)],
        "tags": [
            *("biology", "spatial-transcriptomics", "histopathology", "xenium"),
            *("gene-expression", "cross-modal-retrieval"),
        ],
        "pairs": pairs,
        "configs": [entry["config"] for entry in entries],
        "dataset_info": [entry["info"] for entry in entries],
    }
    return FENCE + yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100) + FENCE


def _licence(licences: Iterable[str]) -> dict:
    """What the head says of licences: the Hub's names where all have one, else their texts."""
    texts = sorted({text.strip() or NOT_STATED for text in licences}) or [NOT_STATED]
    known = {*LICENCES.values()}
    names = [text if text in known else LICENCES.get(text.casefold(), "") for text in texts]
    if all(names):
        names = sorted(set(names))
        return {"license": names[0] if len(names) == 1 else names}
    return {"license": "other", "license_name": "; ".join(texts)}


def licences_of(head: Mapping) -> list[str]:
    """The licences that the head of a card states, one by one."""
    stated = head.get("license", "other")
    if stated == "other":
        return str(head.get("license_name", NOT_STATED)).split("; ")
    return [stated] if isinstance(stated, str) else list(stated)


def size_category(pairs: int) -> str:
    """The Hub's word for a number of pairs."""
    low = "n"
    for bound, name in SIZES:
        if pairs < bound:
            return f"n<{name}" if low == "n" else f"{low}<n<{name}"
        low = name
    return f"n>{low}"


def read_front_matter(path) -> dict:
    """The YAML head of a card."""
    try:
        parts = Path(path).read_text(encoding="utf-8").split(FENCE, 2)
        fault = "none" if len(parts) < 3 or parts[0] else ""
        head = {} if fault else yaml.safe_load(parts[1])
    except FileNotFoundError:
        raise missing_file(path, "run describe_dataset") from None
    except yaml.YAMLError as error:
        fault = str(error)
    for key in ("configs", "dataset_info"):
        if not fault and not (isinstance(head, dict) and isinstance(head.get(key), list)):
            fault = f"no list `{key}`"
    if fault:
        raise InputError(path, "front matter", fault, "delete it and run describe_dataset again")
    return head


def move_configs(head: Mapping, card, target) -> list[dict[str, dict]]:
    """The configs of ``card``, with the paths of their files made relative to ``target``."""
    folder = Path(card).resolve().parent
    infos = {info["config_name"]: info for info in head["dataset_info"]}
    moved = []
    for config in head["configs"]:
        config = {key: value for key, value in config.items() if key != "default"}
        config["data_files"] = [
            {**files, "path": [relative(folder / path, target) for path in files["path"]]}
            for files in config["data_files"]
        ]
        moved.append({"config": config, "info": infos[config["config_name"]]})
    return moved

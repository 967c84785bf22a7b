"""What stands below the head of a card (README.md), for people."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pairscape.dataset import leakage
from pairscape.dataset.card import LAYOUT_SUFFIX, PREVIEW, layout_warning
from pairscape.dataset.shards import Shards
from pairscape.dataset.splits import SPLITS

CITATION = """## Citation

Please cite the sources of the samples you use, and the benchmark whose form the pairs have:

```bibtex
@misc{gindra2025largescale,
  title = {A Large-Scale Benchmark of Cross-Modal Learning for Histology and Gene Expression in
           Spatial Transcriptomics},
  author = {Gindra, Rushin H. and Palla, Giovanni and Nguyen, Mathias and Wagner, Sophia J. and
            Tran, Manuel and Theis, Fabian J. and Saur, Dieter and Crawford, Lorin and Peng, Tingying},
  year = {2025},
  eprint = {2508.01490},
  archivePrefix = {arXiv}
}
```"""
_OF_ADDRESSES = ":/?&=#%+,;@~!$'*"  # what stands in addresses as it is


@dataclass(frozen=True)
class Described:
    """What the card of a dataset tells of it."""

    name: str
    version: str
    gene_count: int
    genes_path: str  # of genes.tsv, from the card
    shards: Shards
    splits: Sequence[Mapping]
    leaks: Sequence[Mapping]
    samples: Mapping[str, Mapping]  # rows of the sample table
    left_out: Sequence[str] = ()  # a line for each sample that it has lost


def dataset_text(dataset: Described) -> str:
    """The text of a dataset's card."""
    name, shards, splits = dataset.name, dataset.shards, dataset.splits
    pairs = dict(zip(shards.samples, shards.row_counts, strict=True))
    left_out = sum(metadata.get("spots_left_out", 0) for metadata in shards.metadata)
    warning = layout_warning(metadata["patches"] for metadata in shards.metadata)
    return _joined(
        f"# {name}",
        f"Image-gene pairs of {len(pairs)} Xenium sample(s) from "
        f"{len({row['donor'] for row in splits})} donor(s): the H&E patch around each "
        f"pseudo-spot, and the raw counts of {dataset.gene_count} genes in the spot. "
        f"{sum(pairs[row['sample']] for row in splits):,} pairs; version {dataset.version}. "
        "Built by Pairscape.",
        *_lost(dataset.left_out),
        picture_text(name, [row["split"] for row in splits], PREVIEW),
        *_findings(dataset),
        "```python\nfrom datasets import load_dataset\n\n"
        f'load_dataset("<results>/datasets", "{name}", split="{splits[0]["split"]}")\n```',
        "## Samples",
        _table(
            ["split", "sample", "donor", "organ", "disease state", "spots", "pairs"],
            [
                [
                    row["split"],
                    row["sample"],
                    _plain(row["donor"])
                    + (" (placeholder)" if leakage.is_placeholder(row) else ""),
                    _plain(row["organ"]),
                    _plain(row["disease_state"]),
                    "" if row["spots"] is None else row["spots"],
                    pairs[row["sample"]],
                ]
                for row in splits
            ],
        ),
        f"A placeholder donor is one that no source names. {left_out} spot(s) have no pair: their "
        "patch reaches beyond the H&E.",
        f"Config `{name}{LAYOUT_SUFFIX}` lists the same rows as one split `train`, as the "
        "published data set does; `{train,val,test}.csv` in "
        f"`data/{name}{LAYOUT_SUFFIX}/` say which `name` is in which split."
        + (f" **Note: {warning}.**" if warning else ""),
        *_pair(dataset),
        "## Provenance",
        _table(
            ["sample", "title", "source", "licence", "shard (SHA-256)"],
            [
                [
                    sample,
                    _linked(fact.get("title", ""), fact.get("landing_page", "")),
                    fact.get("source", ""),
                    _plain(fact.get("license", "")) or "not stated",
                    f"`{sha256[:16]}`",
                ]
                for sample, sha256 in zip(shards.samples, shards.sha256, strict=True)
                for fact in [dataset.samples[sample]]
            ],
        ),
        CITATION,
    )


def picture_text(name: str, splits: Iterable[str], path: str) -> str:
    """The picture of ``preview.draw`` in a card, with what its rows are."""
    used = set(splits)
    rows = ", ".join(split for split in SPLITS if split in used)
    return f"![H&E patches of {name}, from top to bottom: {rows}]({path})"


def _findings(dataset: Described) -> Iterable[str]:
    """What the splits share."""
    splits = dataset.splits
    hard = [leak for leak in dataset.leaks if leak["finding"] in leakage.HARD]
    soft = [leak for leak in dataset.leaks if leak["finding"] not in leakage.HARD]
    unknown = {row["sample"] for row in splits if leakage.is_placeholder(row)}
    if hard:
        donors = _plain("; ".join(leakage.describe_leaks(hard)))
        words = "; ".join(sorted({leak["acknowledged"] for leak in hard if leak["acknowledged"]}))
        yield (
            f"**Not donor-disjoint: {donors}. {'; '.join(_touched(dataset, hard))}. "
            f"Stated reason: {_plain(words) or 'none'}.**"
        )
    elif unknown:
        yield (
            f"No donor is known to stand in two splits; of {len(unknown)} of "
            f"{len(dataset.shards.samples)} samples no source names the donor."
        )
    else:
        yield "No donor stands in two splits."
    if soft:
        yield "Also found between splits (`leakage.tsv`, `patch_leakage.tsv`):\n\n" + "\n".join(
            f"- {sentence}" for sentence in _touched(dataset, soft)
        )


def _pair(dataset: Described) -> Iterable[str]:
    """The columns of a pair, and how its spot was made."""
    metadata = dataset.shards.metadata
    imported = metadata[0]["patches"]["encoding"] == "published"
    yield "## What a pair holds"
    yield (
        f"- `image`: {_patches([facts['patches'] for facts in metadata])}, "
        "centred on the spot, axes of the H&E\n"
        f"- `gexp`: (1, {dataset.gene_count}) raw counts, in the order of `{dataset.genes_path}` "
        "(by symbol); in Python "
        f'`pd.read_csv("{dataset.genes_path}", sep="\\t")["gene_symbol"]`\n'
        "- `cell_coords`: centre in full-resolution H&E pixels; `x_um`, `y_um`: in "
        f"{'µm of the H&E' if imported else 'Xenium µm'}\n"
        "- `name`, `source`, `tissue`: labels\n"
        "- `sample`, `donor`, `spot`, `array_row`, `array_col`: whose pair it is\n"
        "- `tissue_fraction`: share of the patch's pixels with a luma below 80 % of white\n"
        "- the other columns are those of the published data set, empty where not known"
    )
    yield f"Spots: {_preset(metadata[0]['spots'])}"


def index_text(title: str, datasets: Sequence[Mapping], left_out: Sequence[str] = ()) -> str:
    """The text of the card over all datasets.

    Of each: ``name``, ``version``, ``splits`` (split to number of shards) and ``card`` (path
    relative to this one). ``left_out`` are lines of samples that they have lost.
    """
    rows = [
        [
            f"[{dataset['name']}]({dataset['card']})",
            dataset["version"],
            ", ".join(f"{split} {count}" for split, count in dataset["splits"].items()),
        ]
        for dataset in datasets
    ]
    return _joined(
        f"# {_plain(title)}",
        "Image-gene pairs from Xenium bundles, one config per dataset. Built by Pairscape.",
        "```python\nfrom datasets import load_dataset\n\n"
        f'load_dataset("<this folder>", "{datasets[0]["name"]}", split="test")\n```',
        _table(["config", "version", "samples in each split"], rows),
        *_lost(left_out),
        picture_text(
            datasets[0]["name"],
            datasets[0]["splits"],
            f"{datasets[0]['card'].rpartition('/')[0]}/{PREVIEW}",
        ),
        CITATION,
    )


def _lost(lines: Sequence[str]) -> Iterable[str]:
    if lines:
        yield "Left out:\n\n" + "\n".join(f"- {_plain(line)}" for line in lines)


def _joined(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs) + "\n"


def _touched(dataset: Described, leaks: Sequence[Mapping]) -> list[str]:
    """How much of each later split the findings touch, a sentence each."""
    summary = leakage.summarise_leaks(dataset.name, dataset.splits, leaks, "pooled")
    return [leakage.summary_text(row) for row in summary]


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
    scale = f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}"
    return (
        f"{one['patch_px']} x {one['patch_px']} pixels of the H&E as scanned (column `um_per_px`: "
        f"{scale} µm per pixel), {encoded}"
    )


def _plain(text: str) -> str:
    """A text of the user's that brings no HTML, link or column of its own into a card."""
    return re.sub(r"([\\`<>\[\]|])", r"\\\1", " ".join(str(text).split()))


def _linked(title: str, address: str) -> str:
    """A title with its page, where that is one of the web."""
    if not re.match("https?://", address.strip()):
        return _plain(title)
    return f"[{_plain(title) or 'page'}]({quote(address.strip(), safe=_OF_ADDRESSES)})"


def _preset(made_by: Mapping) -> str:
    preset = made_by.get("preset", made_by.get("spots", {}))
    if not isinstance(preset, Mapping):
        return f"preset `{preset}`."
    words = ", ".join(
        f"{key} {'given' if isinstance(value, Mapping) else value}"
        for key, value in preset.items()
        if value is not None
    )
    return f"{words or 'not stated'}."


def _table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])

"""The words of metrics, directions, galleries and planned runs."""

import re
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core.errors import InputError

KEYS = ("dataset", "image_encoder", "gene_encoder")
DIRECTIONS = {"i2g": "I2G", "g2i": "G2I"}


def gallery_words(gallery: str) -> str:
    """A gallery's name in words."""
    if match := re.fullmatch(r"in_batch_(\d+)(?:_ranks_(\d+))?", gallery):
        how = f"by {match[2]} processes" if match[2] else "in data set order"
        return f"in batches of {match[1]}, {how}"
    words = {
        "split": "the whole split",
        "sample": "within each sample",
        "other_donors": "the partner among spots of other donors",
    }
    return words.get(gallery, gallery)


def metric_words(metric: str) -> str:
    """A metric's name in words."""
    return re.sub(r"(\d)um$", r"\1 µm", metric).replace("_", " ").capitalize()


def pair_words(row: Mapping) -> str:
    """An encoder pair in words."""
    return f"{row['image_encoder']} with {row['gene_encoder']}"


def encoder_title(titles: Mapping, kind: str, name: str) -> str:
    """An encoder's title, of ``titles`` by kind (image, gene) and name; else its name."""
    return titles.get(kind, {}).get(name, name)


def seeds_missing_words(row: Mapping) -> str:
    """The seeds that a row lacks, in words; empty where it lacks none."""
    return f"seed {row['seeds_missing'].replace(' ', ', ')}" if row["seeds_missing"] else ""


def word_letters(words: Iterable[str | None]) -> dict[str, str]:
    """A letter for each distinct text."""
    distinct = [text for text in dict.fromkeys(words) if text]
    return {text: chr(ord("a") + place % 26) for place, text in enumerate(distinct)}


def expected_runs(options: Mapping, keys: Sequence[str]) -> list[Mapping]:
    """The planned runs of a program's options, each of which must have these keys."""
    expected = options.get("expected", [])
    for run in expected:
        for name in keys:
            if name not in run:
                raise InputError("--options", f"expected, {name}", "nothing", "name it")
    return expected

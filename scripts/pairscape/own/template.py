"""A configuration of one's own sample, after the template ``config/own``."""

import json
import re
from pathlib import Path

import yaml

from pairscape.acquire.samples import ALIGNMENT_WORDS, FROM_BUNDLE
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.core.options import CHECKOUT

TEMPLATE = CHECKOUT / "config" / "own" / "config.yaml"
COLUMNS = ("sample", "panel", "donor", "source", "organ", "bundle", "he_image", "he_alignment")
COLUMNS += ("he_um_per_px",)


def find_beside(bundle: Path, given: str | None, ending: str) -> str | None:
    """A file of a sample: the given one, or the only one in the bundle's folder that ends so."""
    if given:
        return given
    beside = sorted(bundle.glob(f"*{ending}")) if bundle.is_dir() else []
    if len(beside) > 1:
        some = ", ".join(path.name for path in beside[:3])
        raise InputError(bundle, f"*{ending}", some, "name the right one on the command line")
    return str(beside[0]) if beside else None


def sample_row(name: str, bundle: Path, he_image: str | None, he_alignment: str | None, **facts):
    """The row of the sample table; files by their real paths, so that it works from any folder.

    ``name`` loses what can't stand in paths.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "my_sample"
    if he_alignment and he_alignment not in ALIGNMENT_WORDS:
        he_alignment = str(Path(he_alignment).resolve())
    return {
        "sample": name,
        "panel": FROM_BUNDLE,
        "donor": facts.get("donor") or f"donor of {name}",
        "source": "local",
        "organ": facts.get("organ") or "",
        "bundle": str(bundle.resolve()),
        "he_image": str(Path(he_image).resolve()) if he_image else "none",
        "he_alignment": he_alignment or "",
        "he_um_per_px": facts.get("um_per_px") or "",
    }


def write(folder: Path, row: dict) -> Path:
    """Write ``config.yaml`` and ``samples.tsv`` of one sample; without an H&E there are only spots."""
    folder = folder.resolve()  # Snakemake works in the checkout
    path = folder / "config.yaml"
    if path.exists():
        raise InputError(path, "file", "one that is there", "edit it, or name another folder")
    results = folder / "results"
    values = {
        "title": folder.name,
        "results": str(results),
        "samples": str(folder / "samples.tsv"),
        "bundles": str(results / "bundles"),
    }
    lines = TEMPLATE.read_text(encoding="utf-8").splitlines()
    if row["he_image"] == "none":
        lines = lines[: lines.index("patches:")]
        pooled = [{"sample": row["sample"], "spots": "square55"}]
        lines += ["# Without an H&E there are no pairs: spots, their audit and their figure."]
        empty = {key: {} for key in ("patches", "datasets", "experiments")}
        lines.append(yaml.safe_dump({**empty, "pool_also": pooled}, sort_keys=False))
    written = []
    for line in lines[2:]:  # the first two say what the template is
        key = line.partition(":")[0]
        known = key in values and re.match(r"\w+: ", line)
        written.append(f"{key}: {json.dumps(values[key], ensure_ascii=False)}" if known else line)
    folder.mkdir(parents=True, exist_ok=True)
    tsv.write_tsv(folder / "samples.tsv", [row], COLUMNS)
    with files.atomic_path(path) as temporary:
        temporary.write_text("\n".join(written) + "\n", encoding="utf-8")
    return path

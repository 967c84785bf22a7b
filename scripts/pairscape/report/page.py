"""The report: everything that was made, on one HTML page that needs nothing beside itself."""

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError, missing_file
from pairscape.dataset import leakage
from pairscape.dataset.splits import as_text, read_splits, read_with_leaks
from pairscape.pretrain import failures
from pairscape.report import data_tables, layout
from pairscape.report.chapters import CHAPTERS

TEMPLATE = Path(__file__).with_name("page.html.j2")
IMAGE_BYTES = 8_000_000  # of all images together; base64 makes 11 MB of them
WIDTHS_PX = (1600, 1300, 1000, 800, 640, 480, 320)
JPEG_QUALITY = 80
PROBE_PX = 320  # where it is seen whether PNG or JPEG is the smaller
_PLAIN_NUMBER = re.compile(r"[-+\u2212]?[\d.,]*%?( \([\d.]+%\))?|[\u2013\u2014]")
SPLIT_COLUMNS = ("sample", "donor", "split")
AUDIT_KEYS = ("sample", "rows_read", "pooled", "dropped", "spots")
RUN_KEYS = ("experiment", "dataset", "image_encoder", "gene_encoder", "seed")


# ------------------------------------------------------------------------------------------ reading


def read_checks(paths: Sequence) -> list[dict]:
    """The reports of check_bundle."""
    return [_read_object(path, ("sample", "verdict", "findings", "facts")) for path in paths]


def read_alignments(paths: Sequence) -> list[dict]:
    """What check_alignment found of each sample."""
    return [_read_object(path, ("sample", "verdict", "warnings", "evidence")) for path in paths]


def read_audits(paths: Sequence) -> list[dict]:
    """The audits of pool_spots, each with ``dropped_rows``, their sum."""
    audits = []
    for path in paths:
        audit = _read_object(path, AUDIT_KEYS)
        dropped = sum(audit["dropped"].values())
        if audit["pooled"] + dropped != audit["rows_read"]:
            fault = f"{audit['rows_read']} for {audit['pooled']} pooled and {dropped} dropped"
            remedy = "pool the sample again: its audit must add up"
            raise InputError(path, "rows_read", fault, remedy)
        audits.append({**audit, "dropped_rows": dropped})
    return audits


def read_datasets(splits: Sequence, leaks: Sequence) -> list[dict]:
    """The splits of each dataset and what leaks between them.

    A dataset is named after the folder of its splits.tsv. Returns mappings of ``name``, ``rows`` (of
    splits.tsv), ``leaks`` (of leakage.tsv; None where it wasn't given), ``parts`` and ``leak_parts``
    (both laid out), ``words`` (with which shared donors are admitted), ``donors`` (as
    ``count_donors`` has them) and ``splits`` (by split: samples, donors, spots).
    """
    told = {_folder(path): path for path in leaks}
    datasets = []
    for path in splits:
        if _folder(path) in told:
            rows, leaking = map(as_text, read_with_leaks(path, told[_folder(path)]))
        else:
            rows, leaking = as_text(read_splits(path)), None
        parts = {}
        for split in dict.fromkeys(row["split"] for row in rows):
            inside = [row for row in rows if row["split"] == split]
            spots = [row.get("spots") or "" for row in inside]
            parts[split] = {
                "samples": len(inside),
                "donors": len({row["donor"] for row in inside}),
                "spots": sum(map(int, spots)) if all(text.isdigit() for text in spots) else None,
            }
        datasets.append(
            {
                "name": _folder(path),
                "rows": rows,
                "parts": _as_section(rows, SPLIT_COLUMNS),
                "leak_parts": _as_section(leaking or [], ()),
                "donors": count_donors(rows),
                "leaks": leaking,
                "words": list(dict.fromkeys(filter(None, (r.get("shared_donors") for r in rows)))),
                "splits": parts,
            }
        )
    return datasets


def _as_section(rows: Sequence[Mapping], columns: Sequence[str]) -> dict:
    names = list(rows[0]) if rows else list(columns)
    header = [name.replace("_", " ").capitalize() for name in names]
    return layout.section("", header, [list(row.values()) for row in rows])


def count_donors(rows: Iterable[Mapping]) -> dict[str, int]:
    """How many samples and donors some rows of the sample table, or of splits, hold.

    Of the ``donors``, ``known`` are named by a source, and so are distinct persons; ``placeholders``
    stand for one bundle each whose donor no source names; of the ``unstated`` it isn't said.
    ``least`` is the least number of persons that this can be: placeholders may be anyone, ``donors``
    the greatest.
    """
    rows = list(rows)
    stated: dict[str, str] = {}
    for row in rows:
        if not (donor := row.get("donor")):
            continue
        # What any row of a donor knows of it holds for all of them.
        stated[donor] = max(stated.get(donor, ""), str(row.get("donor_known") or ""))
    known = sum(word == "True" for word in stated.values())
    placeholders = sum(leakage.is_placeholder({"donor_known": word}) for word in stated.values())
    return {
        "samples": len({row["sample"] for row in rows}),
        "donors": len(stated),
        "known": known,
        "placeholders": placeholders,
        "unstated": len(stated) - known - placeholders,
        "least": max(known, min(1, len(stated))),
    }


def read_runs(paths: Sequence) -> list[dict]:
    """The options.json of runs that haven't failed, each with its ``sha256``."""
    runs = {path: files.read_json(path) for path in paths}
    return [
        {**_require(path, run, RUN_KEYS), "sha256": files.sha256_file(path)}
        for path, run in runs.items()
        if not failures.is_failure(run)
    ]


def _folder(path) -> str:
    return Path(path).absolute().parent.name


def _read_object(path, keys: Sequence[str]) -> dict:
    return _require(path, files.read_json(path), keys)


def _require(path, value, keys: Sequence[str]) -> dict:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise InputError(path, key, "nothing", "delete the file and make it again")
    return value


# ------------------------------------------------------------------------------------------- images


def embed_images(
    figures: Sequence, small: Sequence = (), budget: int = IMAGE_BYTES
) -> dict[str, str]:
    """Data URIs of images by path, which take ``budget`` bytes together.

    Figures, which are read, are scaled down alike until they take two thirds of it; small images,
    which are looked through, until they take what is left.
    """
    images = _scale(figures, budget * (2 if small else 3) // 3)
    images |= _scale(small, budget - sum(len(data) for _, data in images.values()))
    return {
        path: f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        for path, (kind, data) in images.items()
    }


def _scale(paths: Sequence, budget: int) -> dict[str, tuple[str, bytes]]:
    """The images at the greatest of ``WIDTHS_PX`` at which they fit together, else at the least.

    Each is decoded once, and a width that turns out too great is tried for none of the others.
    """
    tried: dict[int, dict] = {width: {} for width in WIDTHS_PX}
    taken = dict.fromkeys(WIDTHS_PX, 0)
    for path in paths:
        for width, (kind, data) in _encode(path, list(tried)).items():
            tried[width][str(path)] = kind, data
            taken[width] += len(data)
        for width in [width for width in tried if taken[width] > budget]:
            if len(tried) > 1 and width > WIDTHS_PX[-1]:
                del tried[width]
    return tried[max(tried)]


def _encode(path, widths: Sequence[int]) -> dict[int, tuple[str, bytes]]:
    """An image at several widths, narrower ones as they are.

    Lines and letters stay sharp as PNG; tissue is six times smaller as JPEG.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError) as error:
        raise InputError(path, "image", str(error), "delete it and make it again") from None
    image = _narrowed(image, max(widths))
    probe = _narrowed(image, PROBE_PX)
    is_drawn = len(_written(probe, "PNG")) <= 4 * len(_written(probe, "JPEG"))
    kind, images = "PNG" if is_drawn else "JPEG", {}
    for width in sorted(widths, reverse=True):
        if image.width > width or not images:
            image = _narrowed(image, width)
            last = kind.lower(), _written(image, kind)
        images[width] = last
    return images


def _narrowed(image, width: int):
    from PIL import Image

    if image.width <= width:
        return image
    size = width, max(1, round(image.height * width / image.width))
    return image.resize(size, Image.Resampling.HAMMING)  # a third of the time of LANCZOS


def _written(image, kind: str) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
    return written.getvalue()


# --------------------------------------------------------------------------------------------- page


def kind_of_input(samples: Sequence[Mapping]) -> str:
    """``simulated``, ``real``, ``mixed`` or ``unknown``, from the samples' sources."""
    kinds = {sample["source"] == "simulated" for sample in samples if sample.get("source")}
    if len(kinds) != 1:
        return "mixed" if kinds else "unknown"
    return "simulated" if True in kinds else "real"


def render(context: Mapping) -> str:
    """The page of what was read above.

    ``context``: ``title``; ``samples`` (rows of the sample table, or what is known of them);
    ``datasets``, ``checks``, ``alignments``, ``audits``, ``runs``, ``tables``; ``overlays``,
    ``spot_figures``, ``curves`` (mappings of ``uri``, ``title``, ``alt``, ``caption``),
    ``chapter_figures`` (the same by chapter); ``tissue`` (one of them to begin with, or None);
    ``experiments``.
    """
    environment = layout.templates()
    environment.filters |= {
        "columns": shown_columns,
        "json": _json,
    }
    runs = context["runs"]
    return environment.get_template(TEMPLATE.name).render(
        **context,
        chapters=_asked_for(context),
        input_kind=kind_of_input(context["samples"]),
        data_tables=data_tables,
        versions=_over_runs(runs, "versions"),
        commits=_over_runs(runs, "git_commit"),
        donors=count_donors(context["samples"]),
        donor_lines=[
            *((dataset["name"], dataset["donors"]) for dataset in context["datasets"]),
            ("All samples of this report", count_donors(context["samples"])),
        ],
        found=[one for table in context["tables"] for one in table["found"]],
        missing=[text for table in context["tables"] for text in table["missing"]],
    )


def _asked_for(context: Mapping) -> dict:
    """The chapters that have a table or figure: what the configuration didn't ask for isn't one."""
    filled = {table["kind"] for table in context["tables"]}
    filled |= {name for name, figures in context["chapter_figures"].items() if figures}
    return {name: chapter for name, chapter in CHAPTERS.items() if name in filled}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are shown, which of them hold numbers, and what all rows have in
    common, in words.
    """

    shown: list[int]
    numbers: set[int]
    same: list[tuple[str, str]]


def shown_columns(section: Mapping) -> Columns:
    """What a table shows: what says nothing is left out, what is the same in all rows said once.

    Rows of chance don't count, but what they say isn't left out. A table of one row is shown whole.
    """
    header, rows, chance = (section[key] for key in ("header", "rows", "chance"))
    shown, numbers, same = [], set(), []
    for place, name in enumerate(header):
        cells = [str(row[place]) for row in rows if row[place] is not None]
        told = {str(row[place] or "") for line, row in enumerate(rows) if line not in chance}
        others = {str(rows[line][place] or "") for line in chance} - {""}
        if rows and told | others <= {""}:
            continue
        if told == {"", layout.NOT_RUN}:
            told = {layout.NOT_RUN}
        if len(rows) - len(chance) > 1 and len(told) == 1 and others <= told:
            same.append((name, next(iter(told))))
            continue
        shown.append(place)
        if all(_PLAIN_NUMBER.fullmatch(cell) for cell in cells):
            numbers.add(place)
    if not shown:
        return Columns(list(range(len(header))), set(), [])
    return Columns(shown, numbers, same)


def _json(value):
    """A value as JSON between tags, where quotes may stand as they are."""
    from markupsafe import Markup

    text = json.dumps(value, indent=1, ensure_ascii=False)
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _over_runs(runs: Sequence[Mapping], key: str) -> list[dict]:
    """The distinct values of a key over runs, each with the number of runs that have it."""
    distinct: dict[str, dict] = {}
    for run in runs:
        value = run.get(key)
        entry = distinct.setdefault(files.sha256_json(value), {"value": value, "runs": 0})
        entry["runs"] += 1
    return list(distinct.values())

"""The report: everything that was made, on one HTML page that needs nothing beside itself."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pairscape import (
    batch_effect_table,
    calibration_table,
    expression_table,
    files,
    mutation_tables,
    published_gap,
    tables,
)
from pairscape.errors import InputError

TEMPLATE = Path(__file__).with_name("report.html.j2")
IMAGE_BYTES = 6_000_000  # of all images together; base64 makes 8 MB of them
WIDTHS_PX = (1600, 1300, 1000, 800, 640, 480, 320)
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
    """The audits of pool_spots, each with ``dropped_rows``, their sum.

    Raises
    ------
    InputError
        The rows pooled and dropped aren't the rows read.
    """
    audits = []
    for path in paths:
        audit = _read_object(path, AUDIT_KEYS)
        dropped = sum(audit["dropped"].values())
        if audit["pooled"] + dropped != audit["rows_read"]:
            raise InputError(
                path,
                "rows_read",
                f"{audit['rows_read']} for {audit['pooled']} pooled and {dropped} dropped",
                "pool the sample again: its audit must add up",
            )
        audits.append({**audit, "dropped_rows": dropped})
    return audits


def read_datasets(splits: Sequence, leakage: Sequence) -> list[dict]:
    """The splits of each dataset and what leaks between them.

    A dataset is named after the folder of its splits.tsv.

    Returns
    -------
    Mappings of ``name``, ``rows`` (of splits.tsv), ``leaks`` (of leakage.tsv; None where it wasn't
    given), ``leak_columns``, ``words`` (with which shared donors are admitted) and ``splits`` (by
    split: samples, donors, spots).
    """
    leaks = {
        _folder(path): files.read_tsv(path, ("finding", "donor", "sample")) for path in leakage
    }
    datasets = []
    for path in splits:
        rows = files.read_tsv(path, SPLIT_COLUMNS)
        found = leaks.get(_folder(path))
        parts = {}
        for split in dict.fromkeys(row["split"] for row in rows):
            of_split = [row for row in rows if row["split"] == split]
            spots = [row.get("spots") or "" for row in of_split]
            parts[split] = {
                "samples": len(of_split),
                "donors": len({row["donor"] for row in of_split}),
                "spots": sum(map(int, spots)) if all(text.isdigit() for text in spots) else None,
            }
        datasets.append(
            {
                "name": _folder(path),
                "rows": rows,
                "columns": list(rows[0]) if rows else list(SPLIT_COLUMNS),
                "leaks": found,
                "leak_columns": list(found[0]) if found else [],
                "words": list(dict.fromkeys(filter(None, (r.get("shared_donors") for r in rows)))),
                "splits": parts,
            }
        )
    return datasets


def read_runs(paths: Sequence) -> list[dict]:
    """The options.json of runs, each with its ``sha256``."""
    return [{**_read_object(path, RUN_KEYS), "sha256": files.sha256_file(path)} for path in paths]


# Chapters beside retrieval: what the names of their tables and figures begin with.
CHAPTERS = {
    "calibration": "Calibration",
    "batch_effects": "Batch effects",
    "expression": "Expression prediction",
    "mutation": "Mutation prediction",
    "published-gap": "Gap to the published numbers",
}


def chapter(path) -> str | None:
    """The chapter that a table or figure belongs to, by its name; None for retrieval."""
    stem = Path(path).stem
    return next((name for name in CHAPTERS if stem.startswith(name.removesuffix("s"))), None)


def read_tables(paths: Sequence) -> list[dict]:
    """Tables laid out for the page: ``title``, ``sections`` as of ``tables.retrieval_sections``.

    Tables of retrieval, batch effects and expression have a layout of their own; any other TSV
    stands as it is.
    """
    read = []
    for path in paths:
        if Path(path).suffix != ".tsv":
            raise InputError(path, "name", Path(path).name, "give the tables as .tsv")
        rows = files.read_tsv(path)
        if rows and tables.is_retrieval_table(rows[0]):
            numbers = tables.read_table(path)
            missing = [
                f"{name_in_words(path)}: {row['dataset']}, {row['image_encoder']} with "
                f"{row['gene_encoder']}, {words}"
                for row in numbers
                for words in (
                    f"seed {row['seeds_missing'].replace(' ', ', ')}" * bool(row["seeds_missing"]),
                    row["seeds_failed"],
                )
                if words
            ]
            sections, kind = tables.retrieval_sections(numbers), "retrieval"
        elif rows and batch_effect_table.is_batch_effect_table(rows[0]):
            sections = batch_effect_table.sections(batch_effect_table.read_table(path))
            missing, kind = [], "batch_effects"
        elif rows and expression_table.is_expression_table(rows[0]):
            numbers = expression_table.read_table(path)
            missing = [
                f"{name_in_words(path)}: {row['dataset']}, {row['image_encoder']} with "
                f"{row['gene_encoder']}, seed {row['seeds_missing'].replace(' ', ', ')}"
                + (f" ({row['note']})" if row["note"] else "")
                for row in numbers
                if row["seeds_missing"]
            ]
            sections, kind = expression_table.sections(numbers), "expression"
        elif rows and mutation_tables.is_mutation_table(rows[0]):
            sections = mutation_tables.mutation_sections(mutation_tables.read_table(path))
            missing, kind = [], "mutation"
        elif rows and calibration_table.is_calibration_table(rows[0]):
            sections = calibration_table.sections(calibration_table.read_table(path))
            missing, kind = [], "calibration"
        elif rows and published_gap.is_gap_table(rows[0]):
            numbers = published_gap.read_table(path)
            missing = [
                f"{name_in_words(path)}: {words}" for words in published_gap.missing(numbers)
            ]
            sections, kind = published_gap.sections(numbers), "published-gap"
        else:
            header = list(rows[0]) if rows else []
            body = [[row[name] for name in header] for row in rows]
            sections = [{"title": "", "header": header, "rows": body, "chance": [], "notes": []}]
            missing, kind = [], "other"
        read.append(
            {
                "title": name_in_words(path),
                "kind": kind,
                "sections": sections,
                "missing": list(dict.fromkeys(missing)),
            }
        )
    return read


def name_in_words(path) -> str:
    """What a file shows: ``retrieval_<experiment>.tsv`` is "Retrieval, experiment ..."."""
    stem = Path(path).stem
    kind, _, experiment = stem.partition("_")
    found = chapter(path)
    if found is not None:
        kind, experiment = CHAPTERS[found], stem.removeprefix(found.removesuffix("s"))[1:]
    return kind.capitalize() + (f", experiment {experiment}" if experiment else "")


def _folder(path) -> str:
    return Path(path).absolute().parent.name


def _read_object(path, keys: Sequence[str]) -> dict:
    value = files.read_json(path)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise InputError(path, key, "nothing", "delete the file and make it again")
    return value


# ------------------------------------------------------------------------------------------- images


def embed_images(paths: Sequence, budget: int = IMAGE_BYTES) -> dict[str, str]:
    """Data URIs of images by path, scaled down alike until they take ``budget`` bytes together.

    Raises
    ------
    InputError
        A file isn't an image.
    """
    for width in WIDTHS_PX:
        images = {str(path): _encode(path, width) for path in paths}
        if sum(len(data) for _, data in images.values()) <= budget:
            break
    return {
        path: f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        for path, (kind, data) in images.items()
    }


def _encode(path, width: int) -> tuple[str, bytes]:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    except (OSError, ValueError) as error:
        raise InputError(path, "image", str(error), "delete it and make it again") from None
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    if len(png.getvalue()) < 150_000:
        return "png", png.getvalue()
    image.save(jpeg, "JPEG", quality=88)
    # Lines and letters stay sharper as PNG; tissue is many times smaller as JPEG.
    if 2 * len(jpeg.getvalue()) < len(png.getvalue()):
        return "jpeg", jpeg.getvalue()
    return "png", png.getvalue()


# --------------------------------------------------------------------------------------------- page


def kind_of_input(samples: Sequence[Mapping]) -> str:
    """``simulated``, ``real``, ``mixed`` or ``unknown``, from the samples' sources."""
    simulated = {sample.get("source") == "simulated" for sample in samples if sample.get("source")}
    if not simulated:
        return "unknown"
    return "mixed" if len(simulated) == 2 else "simulated" if simulated == {True} else "real"


def render(context: Mapping) -> str:
    """The page.

    Parameters
    ----------
    context
        ``title``; ``samples`` (rows of the sample table, or what is known of them); ``datasets``,
        ``checks``, ``audits``, ``runs``, ``tables`` as read above; ``spot_figures``, ``curves``,
        ``figures`` (mappings of ``uri``, ``alt``, ``caption``), ``chapter_figures`` (the same by
        chapter); ``experiments``; ``planned`` (names
        of what isn't run).
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nice"] = _nice
    environment.filters["share"] = lambda part, whole: f"{part / whole:.1%}" if whole else ""
    environment.filters["dictvalues"] = lambda row: list(row.values())
    environment.filters["json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    runs = context["runs"]
    return environment.get_template(TEMPLATE.name).render(
        **context,
        chapters=CHAPTERS,
        input_kind=kind_of_input(context["samples"]),
        sample_columns=_filled_columns(context["samples"]),
        drop_reasons=list(
            dict.fromkeys(r for audit in context["audits"] for r in audit["dropped"])
        ),
        versions=_over_runs(runs, "versions"),
        commits=_over_runs(runs, "git_commit"),
        missing=[*context["planned"], *(text for t in context["tables"] for text in t["missing"])],
    )


def _filled_columns(samples: Sequence[Mapping]) -> list[str]:
    """The columns that say something, the sample's name first."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    filled = [name for name in names if any(sample.get(name) for sample in samples)]
    return sorted(filled, key=lambda name: name != "sample")


def _over_runs(runs: Sequence[Mapping], key: str) -> list[dict]:
    """The distinct values of a key over runs, each with the number of runs that have it."""
    distinct: dict[str, dict] = {}
    for run in runs:
        value = run.get(key)
        entry = distinct.setdefault(files.sha256_json(value), {"value": value, "runs": 0})
        entry["runs"] += 1
    return list(distinct.values())


def _nice(value) -> str:
    """A number with no more digits than a reader wants; None and "" as they are not known."""
    if value is None or value == "":
        return tables.NOT_RUN
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)

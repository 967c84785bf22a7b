"""Write the report: one HTML page with everything that was made, readable without a network.

IN   tables, figures, training curves, checks, audits, spot figures, splits, leaks, runs' options;
     any of them may be left out; a chapter stands where a table or figure of it was given
OUT  report.html

Options: title; experiments (names); samples (rows of the sample table: sample, source, organ,
disease_state, donor, donor_known, license ...); left_out (a line for each sample that a dataset has
lost).
"""

from pathlib import Path

from pairscape.core import files
from pairscape.core.logs import log
from pairscape.jobs import program
from pairscape.report import chapters
from pairscape.report import page as report

RESULT_VERSION = 9


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        tables=program.Many("optional: tables of scores (.tsv)"),
        figures=program.Many("optional: figures of scores (PNG)"),
        curves=program.Many("optional: curve.png of each run"),
        checks=program.Many("optional: check.json of each sample"),
        alignments=program.Many("optional: alignment.json of each sample"),
        overlays=program.Many("optional: overlay.png of each sample"),
        audits=program.Many("optional: audit.json of each sample's spots"),
        spot_figures=program.Many("optional: qc.png of each sample's spots"),
        splits=program.Many("optional: splits.tsv of each dataset"),
        leakage=program.Many("optional: leakage.tsv of each dataset"),
        run_options=program.Many("optional: options.json of each run"),
        report=program.Output("HTML page to write"),
    )
    audits = report.read_audits(args.audits or [])
    alignments = report.read_alignments(args.alignments or [])
    datasets = report.read_datasets(args.splits or [], args.leakage or [])
    tables = chapters.read_tables(args.tables or [])
    spot_figures = list(args.spot_figures or [])
    first = _first_shown(spot_figures, datasets)
    if first:
        spot_figures.remove(first)
    says = {"overlays": _says_of_alignments(alignments), "spots": _says_of_spots(audits)}
    says["scores"] = {table["title"]: table["says"] for table in tables}
    figures = {
        name: (
            [p for p in args.figures or [] if chapters.chapter_of(p)[0] is chapter],
            _score_caption,
            says["scores"],
        )
        for name, chapter in chapters.CHAPTERS.items()
    }
    figures["tissue"] = ([first] if first else [], _spot_caption, says["spots"])
    others = {
        "overlays": (args.overlays or [], _overlay_caption, says["overlays"]),
        "spot_figures": (spot_figures, _spot_caption, says["spots"]),
        "curves": (args.curves or [], _curve_caption, {}),
    }
    uris = report.embed_images(
        *([path for paths, *_ in group.values() for path in paths] for group in (figures, others))
    )

    def shown(paths, caption, says):
        items = []
        for path in paths:
            title, words = caption(Path(path))
            alt = ". ".join(filter(None, [title, says.get(title)]))
            items.append({"title": title, "alt": alt, "caption": words, "uri": uris[path]})
        return items

    chapter_figures = {name: shown(*group) for name, group in figures.items()}
    page = report.render(
        {
            "title": args.options.get("title", "Pairscape report"),
            "experiments": args.options.get("experiments", []),
            "samples": args.options.get("samples") or _samples_of(datasets),
            "datasets": datasets,
            "left_out": args.options.get("left_out", []),
            "checks": report.read_checks(args.checks or []),
            "alignments": alignments,
            "audits": audits,
            "runs": report.read_runs(args.run_options or []),
            "tables": tables,
            "tissue": next(iter(chapter_figures.pop("tissue")), None),
            **{name: shown(*group) for name, group in others.items()},
            "chapter_figures": chapter_figures,
        }
    )
    with files.atomic_path(args.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %.1f MB, %d images", args.report, len(page.encode()) / 1e6, len(uris))


def _first_shown(spot_figures, datasets):
    """The figure that the page begins with: of the first test section that has one, else any."""
    tested = [
        row["sample"] for dataset in datasets for row in dataset["rows"] if row["split"] == "test"
    ]
    of_sample: dict = {}
    for path in spot_figures:
        of_sample.setdefault(_folders(Path(path), 2)[0], path)
    wanted = [name for name in tested if name in of_sample] or list(of_sample)
    return of_sample[wanted[0]] if wanted else None


def _says_of_alignments(reports) -> dict[str, str]:
    """What the overlays show, by their titles."""
    says = {}
    for one in reports:
        evidence = one["evidence"]
        rival = evidence.get("rival") or {}
        parts = [f"Verdict {one['verdict']}"]
        parts += [f"score {evidence['score']:.2f}"] if "score" in evidence else []
        parts += [f"best rival {rival['score']:.2f}"] if "score" in rival else []
        says[_overlay_title(one["sample"])] = ", ".join(parts) + "."
    return says


def _says_of_spots(audits) -> dict[str, str]:
    """What the figures of spots show, by their titles."""
    return {
        _spot_title(audit["sample"]): f"{audit['spots']:,} spots hold {audit['pooled']:,} of "
        f"{audit['rows_read']:,} rows of transcripts."
        for audit in audits
    }


def _samples_of(datasets) -> list[dict]:
    """What the splits say of the samples, each once."""
    columns = ("sample", "organ", "disease_state", "donor", "donor_known")
    rows = (row for dataset in datasets for row in dataset["rows"])
    return list({row["sample"]: {c: row.get(c, "") for c in columns} for row in rows}.values())


def _folders(path: Path, count: int) -> list[str]:
    """The innermost folders around a file, from the outside in: they say whose it is."""
    names = [folder.name for folder in path.absolute().parents][:count]
    return (names + [""] * count)[:count][::-1]


def _overlay_title(sample: str) -> str:
    return f"Alignment of sample {sample}"


def _spot_title(sample: str) -> str:
    return f"Spots of sample {sample}"


def _overlay_caption(path: Path) -> tuple[str, str]:
    (sample,) = _folders(path, 1)
    return (
        _overlay_title(sample),
        f"Sample {sample}. Above, how dense the bundle's nuclei lie, drawn on the H&E through the "
        "alignment as given, and beside it through the best of its rivals where there is one. Below, "
        "the outlines of nuclei through the alignment as given, in two squares at full resolution "
        "where nuclei are dense: on a right alignment each lies on a dark nucleus of the H&E. "
        f"In full size: {'/'.join(path.parts[-3:])}.",
    )


def _spot_caption(path: Path) -> tuple[str, str]:
    from PIL import Image

    sample, spots = _folders(path, 2)
    with Image.open(path) as image:
        gene = image.info.get("Gene", "one gene")
    return (
        _spot_title(sample),
        f"Sample {sample}, pseudo-spots {spots}. Transcripts of {gene} per cell and per "
        "pseudo-spot, over the H&E where the sample has one, axes in µm of the Xenium frame; "
        "and how many transcripts and genes the pseudo-spots hold. In full size: "
        f"{'/'.join(path.parts[-4:])}.",
    )


def _curve_caption(path: Path) -> tuple[str, str]:
    experiment, dataset, pair, seed = _folders(path, 4)
    seed = seed.removeprefix("seed")
    return (
        f"Training curve of {pair}, seed {seed}",
        f"{pair} on {dataset}, seed {seed} (experiment {experiment}): of a training its loss over the "
        "steps, on training and on validation pairs; of a closed form its score by penalty.",
    )


def _score_caption(path: Path) -> tuple[str, str]:
    return chapters.name_in_words(path), chapters.caption(path)


if __name__ == "__main__":
    program.run(main)

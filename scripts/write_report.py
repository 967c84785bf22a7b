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

RESULT_VERSION = 8


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
    datasets = report.read_datasets(args.splits or [], args.leakage or [])
    figures = {
        name: (
            [p for p in args.figures or [] if chapters.chapter_of(p)[0] is chapter],
            _score_caption,
        )
        for name, chapter in chapters.CHAPTERS.items()
    }
    others = {
        "overlays": (args.overlays or [], _overlay_caption),
        "spot_figures": (args.spot_figures or [], _spot_caption),
        "curves": (args.curves or [], _curve_caption),
    }
    uris = report.embed_images(
        *([path for paths, _ in group.values() for path in paths] for group in (figures, others))
    )

    def shown(paths, caption):
        return [
            dict(zip(("alt", "caption"), caption(Path(path)), strict=True), uri=uris[path])
            for path in paths
        ]

    page = report.render(
        {
            "title": args.options.get("title", "Pairscape report"),
            "experiments": args.options.get("experiments", []),
            "samples": args.options.get("samples") or _samples_of(datasets),
            "datasets": datasets,
            "left_out": args.options.get("left_out", []),
            "checks": report.read_checks(args.checks or []),
            "alignments": report.read_alignments(args.alignments or []),
            "audits": audits,
            "runs": report.read_runs(args.run_options or []),
            "tables": chapters.read_tables(args.tables or []),
            **{name: shown(*group) for name, group in others.items()},
            "chapter_figures": {name: shown(*group) for name, group in figures.items()},
        }
    )
    with files.atomic_path(args.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %.1f MB, %d images", args.report, len(page.encode()) / 1e6, len(uris))


def _samples_of(datasets) -> list[dict]:
    """What the splits say of the samples, each once."""
    columns = ("sample", "organ", "disease_state", "donor", "donor_known")
    rows = (row for dataset in datasets for row in dataset["rows"])
    return list({row["sample"]: {c: row.get(c, "") for c in columns} for row in rows}.values())


def _folders(path: Path, count: int) -> list[str]:
    """The innermost folders around a file, from the outside in: they say whose it is."""
    names = [folder.name for folder in path.absolute().parents][:count]
    return (names + [""] * count)[:count][::-1]


def _overlay_caption(path: Path) -> tuple[str, str]:
    (sample,) = _folders(path, 1)
    return (
        f"Alignment of sample {sample}",
        f"Sample {sample}. The nuclei of the bundle drawn on the H&E through the alignment as given, "
        "and beside it through the best of its rivals where there is one.",
    )


def _spot_caption(path: Path) -> tuple[str, str]:
    from PIL import Image

    sample, spots = _folders(path, 2)
    with Image.open(path) as image:
        gene = image.info.get("Gene", "one gene")
    return (
        f"Spots of sample {sample}",
        f"Sample {sample}, pseudo-spots {spots}. Transcripts of {gene} per cell and per "
        "pseudo-spot, over the H&E where the sample has one, axes in µm of the Xenium frame; "
        "and how many transcripts and genes the pseudo-spots hold.",
    )


def _curve_caption(path: Path) -> tuple[str, str]:
    experiment, dataset, pair, seed = _folders(path, 4)
    seed = seed.removeprefix("seed")
    return (
        f"Training curve of {pair}, seed {seed}",
        f"{pair} on {dataset}, seed {seed} (experiment {experiment}): loss over the steps of "
        "training, on training and on validation pairs.",
    )


def _score_caption(path: Path) -> tuple[str, str]:
    return chapters.name_in_words(path), chapters.caption(path)


if __name__ == "__main__":
    program.run(main)

"""Write the report: one HTML page with everything that was made, readable without a network.

IN   tables, figures, training curves, checks, audits, spot figures, splits, leaks, runs' options;
     any of them may be left out, and the page says so
OUT  report.html

Options: title; experiments (names); samples (rows of the sample table: sample, source, organ,
disease_state, donor, donor_known, license ...).
"""

from pathlib import Path

from pairscape.core import files
from pairscape.core.logs import log
from pairscape.jobs import program
from pairscape.report import page as report
from pairscape.report.chapters import chapter, name_in_words, read_tables

RESULT_VERSION = 4


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
    groups = {
        "overlays": (args.overlays or [], _overlay_caption),
        "spot_figures": (args.spot_figures or [], _spot_caption(audits)),
        "curves": (args.curves or [], _curve_caption),
    }
    chapters = {
        name: ([p for p in args.figures or [] if chapter(p) == name], caption)
        for name, caption in CAPTIONS.items()
    }
    uris = report.embed_images(
        *([path for paths, _ in of.values() for path in paths] for of in (chapters, groups))
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
            "checks": report.read_checks(args.checks or []),
            "alignments": report.read_alignments(args.alignments or []),
            "audits": audits,
            "runs": report.read_runs(args.run_options or []),
            "tables": read_tables(args.tables or []),
            **{name: shown(*group) for name, group in groups.items()},
            "chapter_figures": {name: shown(*group) for name, group in chapters.items()},
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


def _spot_caption(audits):
    genes = {
        (audit["sample"], audit.get("spots_name", "")): audit.get("overlay_gene")
        for audit in audits
    }

    def caption(path: Path) -> tuple[str, str]:
        sample, spots = _folders(path, 2)
        gene = genes.get((sample, spots)) or "one gene"
        return (
            f"Spots of sample {sample}",
            f"Sample {sample}, pseudo-spots {spots}. Transcripts of {gene} per cell and per "
            "pseudo-spot, over the H&E where the sample has one, axes in µm of the Xenium frame; "
            "and how many transcripts and genes the pseudo-spots hold.",
        )

    return caption


def _curve_caption(path: Path) -> tuple[str, str]:
    experiment, dataset, pair, seed = _folders(path, 4)
    seed = seed.removeprefix("seed")
    return (
        f"Training curve of {pair}, seed {seed}",
        f"{pair} on {dataset}, seed {seed} (experiment {experiment}): loss over the steps of "
        "training, on training and on validation pairs.",
    )


def _batch_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: silhouette-batch of each panel's splits and the mean recall on that panel. V: "
        "Cramér's V of the split with organ and disease state. The numbers, for each encoder pair, "
        f"batch and resolution, are in {path.stem}.tsv beside the figure.",
    )


def _expression_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: correlation of predicted and measured expression, mean over genes, from each "
        "encoder's features as they came and after contrastive pretraining, by two recipes whose "
        "targets differ. Large marks: all test spots, mean over seeds; dots: test donors.",
    )


def _mutation_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: AUROC of a slide's label from frozen patch embeddings, mean over folds with its "
        "interval over patients; dots: folds.",
    )


def _calibration_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: scores on small simulated datasets. Above: recall of a trained pair and expression "
        "predicted from the frozen image encoder, over the share of the image that shows the tissue of "
        "the transcripts. Below: silhouette-batch over the donors' shift of stain and expression. "
        "Left, donors of the test split stand in no other; right, in the train split too. Lines: "
        "means over seeds; dots: datasets; dashed: chance.",
    )


def _audit_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: by how much Recall@5 changes when one flag of the published protocol is changed by "
        "itself: switched on where all else is corrected, and repaired where all else is as published. "
        "Marks: difference from the run with no other change, mean over seeds and both directions, "
        "hollow where the two test on different spots; lines: 95 % intervals over test spots; ticks: "
        "least and greatest of single seeds. One panel has the published gallery, batches of 64 dealt "
        "out to four processes; the other the full one, the whole test split. Grey: flags that can't "
        "make a difference here, and why.",
    )


def _retrieval_caption(path: Path) -> tuple[str, str]:
    name = name_in_words(path)
    return (
        name,
        f"{name}: share of test queries whose partner is among the k most similar, for each "
        "encoder pair and direction, in the whole test split and in batches. Bars: mean over "
        "seeds; white dots: seeds; black lines: 95 % interval, over donors or over blocks of tissue "
        "within them, as the table says; red: chance.",
    )


CAPTIONS = {
    "calibration": _calibration_caption,
    "retrieval": _retrieval_caption,
    "batch_effects": _batch_caption,
    "expression": _expression_caption,
    "mutation": _mutation_caption,
    "ablations": _retrieval_caption,
    "audit": _audit_caption,
}


if __name__ == "__main__":
    program.run(main)

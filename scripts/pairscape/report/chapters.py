"""The chapters of the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.report import (
    audit_table,
    batch_effect_table,
    calibration_table,
    expression_table,
    mutation_table,
    published_gap,
    published_sections,
    retrieval_table,
)


class Chapter(NamedTuple):
    """A chapter of scores: its heading, what it shows, and what stands there when nothing does."""

    heading: str
    about: str
    absent: str


# In the order of the page, behind the data.
CHAPTERS = {
    "calibration": Chapter(
        "Calibration",
        "What the scores say of small simulated datasets, whose signal, batch effect and leaked "
        "donors are known: whether a score moves with what it is meant to measure.",
        "The scores haven't been held against data whose signal is known. The configuration's part "
        "calibration asks for it.",
    ),
    "retrieval": Chapter(
        "Retrieval",
        "A query of one modality looks for its partner among a gallery of the other. How to read "
        "the numbers:",
        "No retrieval has been scored: no experiment of this report has a finished run.",
    ),
    "batch_effects": Chapter(
        "Batch effects",
        "Whether the expression of spots tells which split or donor they are from: silhouette-batch "
        "and its kin, 1 for well mixed, from counts alone.",
        "Batch effects haven't been scored. The configuration's batch_effect: {score: true} asks "
        "for it.",
    ),
    "expression": Chapter(
        "Expression prediction",
        "Genes of a spot predicted from its image by a linear model on frozen features, before and "
        "after contrastive pretraining.",
        "Expression prediction hasn't been run. The configuration's expression: {score: true} asks "
        "for it.",
    ),
    "mutation": Chapter(
        "Mutation prediction",
        "Labels of whole slides predicted from frozen patch embeddings, by folds that share no site.",
        "Mutation prediction hasn't been run: it needs cohorts of labelled slides (the "
        "configuration's parts cohorts and mutation).",
    ),
    "ablations": Chapter(
        "Ablations",
        "Experiments that change one choice of the pretraining: the projection head, the loss, which "
        "encoder is tuned. Their retrieval, read as in the chapter before, and the published "
        "ablations beside it where there are any.",
        "The ablations haven't been run: no table or figure of an experiment whose name starts with "
        "ablation_ was given to this report. In the full configuration they are made when asked for, "
        "by results/tables/published-gap_ablation_projection.md, published-gap_ablation_loss.md and "
        "published-gap_ablation_finetuning.md.",
    ),
    "audit": Chapter(
        "Audit",
        "What each quirk of the published code and splits does to Recall@5: from the corrected "
        "protocol, one quirk put in at a time; from the published one, one repaired at a time.",
        "The audit hasn't been run. The configuration's part audit names one, and "
        "results/tables/audit_<name>.md makes it.",
    ),
    "published-gap": Chapter(
        "Gap to the published numbers",
        "The paper's numbers with ours beside them, cell by cell.",
        "Nothing of this report was compared with the paper's numbers. An experiment on the "
        "published panels is, by results/tables/published-gap_<experiment>.md.",
    ),
}


# What the names of a chapter's files begin with; the rest is retrieval.
_PREFIXES = {
    "retrieval_ablation_": "ablations",
    "published-gap_ablation_": "ablations",
    "audit_": "audit",
    "batch_effect": "batch_effects",
    **{name: name for name in ("calibration", "expression", "mutation", "published-gap")},
}


def chapter(path) -> str:
    """The chapter that a table or figure belongs to, by its name."""
    stem = Path(path).stem
    return next((name for start, name in _PREFIXES.items() if stem.startswith(start)), "retrieval")


def read_tables(paths: Sequence) -> list[dict]:
    """Tables laid out for the page: ``title``, ``sections`` as of ``tables.retrieval_sections``.

    ``kind`` is the table's chapter; those of experiments named ``ablation_...`` have one of their
    own. Any other TSV stands as it is, where its name belongs.
    """
    read = []
    for path in paths:
        if Path(path).suffix != ".tsv":
            raise InputError(path, "name", Path(path).name, "give the tables as .tsv")
        rows = tsv.read_tsv(path)
        if rows and retrieval_table.is_retrieval_table(rows[0]):
            numbers = retrieval_table.read_table(path)
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
            sections, kind = retrieval_table.retrieval_sections(numbers), "retrieval"
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
        elif rows and mutation_table.is_mutation_table(rows[0]):
            sections = mutation_table.mutation_sections(mutation_table.read_table(path))
            missing, kind = [], "mutation"
        elif rows and calibration_table.is_calibration_table(rows[0]):
            sections = calibration_table.sections(calibration_table.read_table(path))
            missing, kind = [], "calibration"
        elif rows and published_gap.is_gap_table(rows[0]):
            numbers = published_gap.read_table(path)
            missing = [
                f"{name_in_words(path)}: {words}" for words in published_gap.missing(numbers)
            ]
            sections, kind = published_sections.sections(numbers), "published-gap"
        elif rows and audit_table.is_audit_table(rows[0]):
            numbers = audit_table.read_table(path)
            missing = [f"{name_in_words(path)}: {words}" for words in audit_table.missing(numbers)]
            sections, kind = audit_table.sections(numbers), "audit"
        else:
            header = list(rows[0]) if rows else []
            body = [[row[name] for name in header] for row in rows]
            sections = [{"title": "", "header": header, "rows": body, "chance": [], "notes": []}]
            missing, kind = [], chapter(path)
        if chapter(path) == "ablations" and kind in ("retrieval", "published-gap"):
            kind = "ablations"
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
    if stem.startswith("audit_"):
        return f"Audit {stem.removeprefix('audit_')}"
    start = next((start for start in _PREFIXES if stem.startswith(start)), "")
    kind, _, experiment = stem.partition("_")
    if start and not start.endswith("_"):
        kind, experiment = CHAPTERS[_PREFIXES[start]].heading, stem.removeprefix(start)[1:]
    elif kind in CHAPTERS:
        kind = CHAPTERS[kind].heading
    return kind.capitalize() + (f", experiment {experiment}" if experiment else "")

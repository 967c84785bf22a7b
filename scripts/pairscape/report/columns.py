"""The columns that mean the same in several tables of the report."""

from pairscape.core import tsv

_COLUMNS = {
    column.name: column
    for column in (
        *tsv.text(
            dataset="dataset",
            panel="panel",
            image_encoder="image encoder",
            gene_encoder="gene encoder",
            direction="i2g: images look for genes; g2i: genes look for images",
            gallery="what the partner is looked for in",
            batch="split or donor",
            control="what it is a control for",
            donors_shared="why splits may share donors",
            ci_over="what the intervals are over",
            p_test="how p was found, or why not",
            seeds_missing="planned, neither scored nor failed",
        ),
        *tsv.numbers(
            resolution="of the clusters",
            recall_at="k of Recall@k",
            chance="chance of recall",
            spots="spots",
            donors="donors",
            seeds_run="seeds scored",
            seeds_planned="seeds planned, scored or failed",
        ),
    )
}


def columns(*names: str) -> tuple[tsv.Column, ...]:
    """The declarations of shared columns."""
    return tuple(_COLUMNS[name] for name in names)

"""A leaderboard: what the runs of several results folders reached, a row for each pair.

Rows of one data set compare only where it holds the same pairs in the same splits, so a data set's
name stands for one checksum, or the folders are refused.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from pairscape.core import files, tsv
from pairscape.core.errors import InputError, missing_file
from pairscape.pretrain import runs
from pairscape.report import expression_table, retrieval_table
from pairscape.report.columns import columns
from pairscape.report.layout import interval, number, templates
from pairscape.report.rows import mean_sd, split_by
from pairscape.report.words import DIRECTIONS, KEYS

SCORE = "recall@5"
FULL, PUBLISHED = "split", "in_batch_64"  # galleries: all pairs of the split, and the paper's
RECIPE, METRIC = "corrected", "pearson"  # of expression prediction
BOARD = tsv.Table(
    "leaderboard.tsv",
    "write_leaderboard",
    (
        *tsv.counts(place="by the mean of both directions in the full gallery; controls have none"),
        *columns("dataset"),
        *tsv.text(data_sha256="of the pairs and their splits", experiment="experiment"),
        *columns("image_encoder", "gene_encoder"),
        *tsv.text(image_title="its title", gene_title="its title"),
        *columns("control"),
        *tsv.text(tuning="how encoders were tuned: image, gene; none where nothing is trained"),
        *columns("seeds_run"),
        *tsv.numbers(
            **{
                f"{direction}_{part or 'value'}": f"{SCORE} in the full gallery, {words}: {meaning}"
                for direction, words in DIRECTIONS.items()
                for part, meaning in {
                    "": "mean over seeds",
                    "ci_low": "lower bound of its interval",
                    "ci_high": "upper bound",
                }.items()
            }
        ),
        *columns("chance"),
        *tsv.numbers(
            queries="queries",
            **{
                f"{direction}_published": f"{SCORE} in the paper's galleries of 64, {words}"
                for direction, words in DIRECTIONS.items()
            },
            expression=f"{METRIC} of expression predicted from the pair's images, {RECIPE} recipe",
        ),
        *columns("donors_shared"),
        *tsv.text(
            image_weights="checksum of the image encoder as it was built",
            gene_weights="of the gene encoder",
            licence="of the weights: image, gene",
            git_commit="of the program that trained",
            run="options.json of one of the runs",
            folder="results folder",
        ),
    ),
)


def gather(folders: Sequence) -> list[dict]:
    """The rows of ``BOARD`` of all folders, the best of each data set first."""
    if not folders:
        raise InputError("--folders", "folders", "none", "name the results folders to gather")
    rows = [row for folder in folders for row in _folder_rows(Path(folder))]
    _refuse_mixed(rows)
    ranked = []
    for group in split_by(rows, "dataset").values():
        group.sort(key=lambda row: -_mean(row))
        places = iter(range(1, len(group) + 1))
        ranked += [row | {"place": None if row["control"] else next(places)} for row in group]
    return ranked


def _mean(row: Mapping) -> float:
    return sum(row[f"{direction}_value"] for direction in DIRECTIONS) / len(DIRECTIONS)


def _folder_rows(folder: Path) -> list[dict]:
    tables = sorted((folder / "tables").glob("retrieval_*.tsv"))
    if not tables:
        raise missing_file(
            folder / "tables" / "retrieval_*.tsv", "name a folder with finished results"
        )
    rows = []
    for path in tables:
        experiment = path.stem.removeprefix("retrieval_")
        predicted = _expression(folder / "tables" / f"expression_{experiment}.tsv")
        pairs = split_by(retrieval_table.TABLE.read(path), *KEYS)
        for key, cells in pairs.items():
            scores = {(cell["gallery"], cell["direction"]): cell for cell in cells}
            full = [scores.get((FULL, direction)) for direction in DIRECTIONS]
            if any(cell is None or cell.get(SCORE) is None for cell in full):
                continue  # not run, or failed
            facts = _run_facts(folder, experiment, *key)
            rows.append(
                {
                    **dict(zip(KEYS, key, strict=True)),
                    **facts,
                    **_scores(scores),
                    "experiment": experiment,
                    "expression": predicted.get(key),
                    "folder": str(folder),
                    **{name: full[0][name] for name in ("control", "queries", "donors_shared")},
                    "seeds_run": full[0]["seeds_run"],
                }
            )
    return rows


def _scores(cells: Mapping[tuple, Mapping]) -> dict:
    row = {"chance": cells[FULL, next(iter(DIRECTIONS))][f"{SCORE}_chance"]}
    for direction in DIRECTIONS:
        full = cells[FULL, direction]
        row[f"{direction}_value"] = full[SCORE]
        row |= {f"{direction}_{bound}": full[f"{SCORE}_{bound}"] for bound in ("ci_low", "ci_high")}
        row[f"{direction}_published"] = cells.get((PUBLISHED, direction), {}).get(SCORE)
    return row


def _expression(path: Path) -> dict[tuple, float]:
    if not path.is_file():
        return {}
    return {
        tuple(row[key] for key in KEYS): row["after"]
        for row in expression_table.TABLE.read(path)
        if row["recipe"] == RECIPE and row["metric"] == METRIC and row["gene_encoder"]
    }


def _run_facts(folder: Path, experiment: str, dataset: str, image: str, gene: str) -> dict:
    """What options.json says of a pair's data, encoders and tuning, from the first of its runs."""
    place = folder / "runs" / experiment / dataset / f"{image}-{gene}"
    keys = ("options", "shards", "splits", "trunk_sha256", "git_commit")
    read = (runs.read_run(path, keys) for path in sorted(place.glob("seed*/options.json")))
    path, run, _ = next((one for one in read if not one[2]), (None, None, True))
    if run is None:
        raise missing_file(place / "seed*" / "options.json", "name a folder with its runs, too")
    specs = {kind: run["options"][f"{kind}_encoder"] for kind in ("image", "gene")}
    training = run["options"]["training"]
    licences = [(spec["weights"] or {}).get("licence", "none") for spec in specs.values()]
    tuning = [training[f"{kind}_tuning"] for kind in specs]
    return {
        "data_sha256": files.sha256_json({name: run[name] for name in ("shards", "splits")}),
        **{f"{kind}_title": spec["title"] for kind, spec in specs.items()},
        "tuning": "none" if "closed_form" in run else ", ".join(tuning),
        "image_weights": run["trunk_sha256"].get("images") or "",
        "gene_weights": run["trunk_sha256"].get("genes") or "",
        "licence": ", ".join(licences),
        "git_commit": run["git_commit"] or "",
        "run": str(path),
    }


def write_page(path, rows: Sequence[Mapping]) -> None:
    """Write the board as a page: a table for each data set, sorted by a click on a heading."""
    tables = [
        {
            "dataset": name,
            "data": group[0]["data_sha256"][:12],
            "rows": [_shown(row, Path(path)) for row in group],
        }
        for name, group in split_by(rows, "dataset").items()
    ]
    page = templates().get_template("leaderboard.html.j2").render(tables=tables)
    with files.atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _shown(row: Mapping, page: Path) -> dict:
    """A row of the page: its numbers in words, and a link to its run."""
    told = {
        f"{direction}_words": number(row[f"{direction}_value"])
        + interval(row[f"{direction}_ci_low"], row[f"{direction}_ci_high"])
        for direction in DIRECTIONS
    }
    published = [row[f"{direction}_published"] for direction in DIRECTIONS]
    told["published"] = number(mean_sd([value for value in published if value is not None])[0])
    told["expression_words"] = number(row["expression"])
    link = os.path.relpath(row["run"], page.parent)
    return {**row, **told, "link": quote(link)}


def _refuse_mixed(rows: Iterable[Mapping]) -> None:
    for dataset, group in split_by(rows, "dataset").items():
        first = group[0]
        for row in group:
            if row["data_sha256"] != first["data_sha256"]:
                found = f"other pairs or splits of {dataset} than {first['run']}"
                remedy = "leave one of the folders out, or rename the data set in one of them"
                raise InputError(row["run"], "shards, splits", found, remedy)

"""The options of an audit: its rows, each with its encoder pairs, seeds and runs."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from pairscape.audit.protocols import PROTOCOLS as STARTS
from pairscape.core.errors import InputError, one_of
from pairscape.evaluate import retrieval

ROW_KEYS = ("start", "flag", "findings", "meaning", "experiment", "dataset", "why_not")
PAIR_KEYS = ("image_encoder", "gene_encoder", "image", "gene")
_refuse = partial(InputError, "--options")


class Run(NamedTuple):
    """What names a run; encoders by the names that the run has for them."""

    experiment: str
    dataset: str
    image_encoder: str
    gene_encoder: str
    seed: int


def check_options(options: Mapping) -> dict:
    """The options, the defaults of the configuration's part ``retrieval`` filled in.

    Returns
    -------
    ``audit``; ``rows``, each with ``ROW_KEYS``, ``pairs`` (the names of the audit's encoders and, as
    ``image`` and ``gene``, of those that its runs have: a flag may put variants in their place) and
    ``seeds``; ``expected``, every ``Run`` of them; and what ``retrieval.check_options`` returns.
    """
    for name in ("audit", "rows"):
        if not options.get(name):
            raise _refuse(name, "nothing", "name it")
    scoring = {key: value for key, value in options.items() if key not in ("audit", "rows")}
    resolved = vars(retrieval.RetrievalOptions.of({"recall_at": [5], **scoring}))
    seen, expected = set(), {}
    for number, row in enumerate(options["rows"]):
        place = f"rows[{number}]"
        _check_row(row, place)
        start, flag = row["start"], row["flag"]
        named = f"{flag or 'the base'} of {start}"
        if (start, flag) in seen:
            raise _refuse(place, f"{named} twice", "give each row once")
        if flag and (start, "") not in seen:
            raise _refuse(place, f"{named} before its base", "give the base first")
        seen.add((start, flag))
        if not row["why_not"] and not (row["pairs"] and row["seeds"]):
            remedy = "name its encoder pairs and seeds, or why it can't be tried"
            raise _refuse(place, f"{named} without pairs, seeds or why_not", remedy)
        for run in (run for pair in row["pairs"] for run in runs_of(row, pair)):
            if run in expected:
                raise _refuse(place, f"{words(run)} twice", "name each run once")
            expected[run] = None
    rows = [dict(row) for row in options["rows"]]
    return {**resolved, "audit": options["audit"], "rows": rows, "expected": list(expected)}


def _check_row(row, place: str) -> None:
    if not isinstance(row, Mapping):
        raise _refuse(place, repr(row), "give an object of keys and values")
    kinds = {**dict.fromkeys(ROW_KEYS, str), "pairs": list, "seeds": list}
    for key, kind in kinds.items():
        if not isinstance(row.get(key), kind):
            what = "a text" if kind is str else "a list"
            raise _refuse(f"{place}.{key}", repr(row.get(key)), f"give {what}")
    one_of(row["start"], STARTS, "--options", f"{place}.start")
    for pair in row["pairs"]:
        if not isinstance(pair, Mapping) or any(
            not isinstance(pair.get(k), str) for k in PAIR_KEYS
        ):
            raise _refuse(f"{place}.pairs", repr(pair), f"give {', '.join(PAIR_KEYS)}")


def runs_of(row: Mapping, pair: Mapping) -> list[Run]:
    """The runs of a row and one of its pairs, one for each seed."""
    names = (row["experiment"], row["dataset"], pair["image"], pair["gene"])
    return [Run(*names, seed) for seed in row["seeds"]]


def words(run: Run) -> str:
    """A run in words."""
    pair = f"{run.image_encoder} with {run.gene_encoder}"
    return f"{run.experiment}, {run.dataset}, {pair}, seed {run.seed}"

"""What a run says of itself, in options.json or failed.json, to the programs that score it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import leakage, splits
from pairscape.pretrain import failures, run_embeddings


def read_run(
    given, keys: Sequence[str], experiment: str | None = None, dataset: str | None = None
) -> tuple[str, dict, bool]:
    """Read what a run says of itself: the file read, what it holds, and whether the run failed.

    Parameters
    ----------
    given
        Its options.json, or failed.json; one that failed has the latter in place of the former.
    keys
        What options.json must hold beside ``failures.RUN_KEYS``. ``splits`` that leak are refused.
    experiment, dataset
        Whose run it must be; None for any.
    """
    record = failures.beside(given)
    path = record or given
    run = failures.read(path) if record else files.read_json(path)
    failed = failures.is_failure(run)
    for key in failures.RUN_KEYS if failed else (*failures.RUN_KEYS, *keys):
        if not isinstance(run, dict) or key not in run:
            raise InputError(path, key, "nothing", "delete the run and pretrain it again")
    if not failed and "splits" in keys:
        splits.refuse_recorded(run["splits"], path)
    for key, wanted in (("experiment", experiment), ("dataset", dataset)):
        if wanted is not None and run[key] != wanted:
            raise InputError(path, key, run[key], f"give only runs of {key} {wanted}")
    return path, run, failed


def read_scorable(path, run: Mapping, split: str) -> tuple[dict, set[str]]:
    """Read a run's embedded pairs of a split that recall can be taken of.

    ``path`` and ``run`` are those of ``read_run``, of a run that didn't fail and has the key
    ``splits``. Returns what ``read_run_embeddings`` gives, and the donors that no source names.
    """
    folder = Path(path).parent
    embedded = run_embeddings.read_run_embeddings(folder, split)
    index, index_path = embedded["index"], run_embeddings.run_files(folder, split)["index"]
    if not len(index):
        remedy = f"give the split {split} a sample with spots"
        raise InputError(index_path, "rows", "no pair to score", remedy)
    donors = index.groupby("sample")["donor"].nunique()
    if donors.max() > 1:
        remedy = "give each sample one donor in the sample table and pretrain again"
        many = f"{donors.max()} donors"
        raise InputError(index_path, f"sample {donors.idxmax()}", many, remedy)
    return embedded, {row["donor"] for row in run["splits"] if leakage.is_placeholder(row)}


def control_words(run: Mapping) -> str:
    """What makes a run a control, in the words of its encoders' files; empty where it is none."""
    specs = [run.get("options", {}).get(f"{kind}_encoder") for kind in ("image", "gene")]
    words = [spec.get("control") for spec in specs if isinstance(spec, dict)]
    return "; ".join(filter(None, words)) or run.get("control", "")


def shared_donors(rows: Iterable[Mapping], split: str) -> str:
    """The words with which the data set admits donors of this split in another one."""
    words = (row.get("shared_donors", "") for row in rows if row.get("split") == split)
    return "; ".join(dict.fromkeys(text for text in words if text))


def check_experiment(path, rows: Iterable[Mapping], *experiments: str) -> None:
    """Refuse scores of another experiment; ``path`` is their file, for the message."""
    for line, row in enumerate(rows, start=2):
        if row["experiment"] not in experiments:
            remedy = f"give only scores of {', '.join(experiments)}"
            raise InputError(path, f"line {line}, experiment", row["experiment"], remedy)

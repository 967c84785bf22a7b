"""The paper's own numbers, as ``config/published`` holds them: read, and checked.

A published recall is that of batches of 64 test pairs of one device, where four devices read the
test split in data set order: ``GALLERY``. It compares with no other gallery.
"""

from collections.abc import Mapping

from pairscape.core import tsv
from pairscape.core.errors import InputError, one_of

GALLERY = "in_batch_64_ranks_4"  # retrieval.gallery_name(64, 4)
REPORTED = "reported"
DIRECTIONS = ("i2g", "g2i")
RETRIEVAL_SEEDS, ABLATION_SEEDS = 3, 1  # the ablations were run with seed 24442 alone
NAMES = ("source", "panel", "image_encoder", "gene_encoder", "direction", "recall_at")
RETRIEVAL_COLUMNS = (*NAMES, "mean", "sd", "status")
ABLATION_COLUMNS = (*NAMES, "factor", "level", "mean", "status", "note")
# What the published ablations hold fast: Table 9 is of frozen encoders, Table 10 of the benchmark's
# own options, Table 11 of linear heads. Told by the cells that the tables share with each other and
# with the benchmark. `image_tuned` and `gene_tuned`: whether that encoder was tuned.
FIXED = {
    "image_projection": {"loss": "clip", "image_tuned": False, "gene_tuned": False},
    "loss": {"image_projection": "mlp", "image_tuned": True, "gene_tuned": False},
    "finetuning_image/gene": {"image_projection": "linear", "loss": "clip"},
}
BENCHMARK = {"image_projection": "mlp", "loss": "clip", "image_tuned": True, "gene_tuned": False}


def read_retrieval(path) -> list[dict]:
    """The published Recall@k of encoder pairs.

    Rows of ``NAMES``, ``factor`` and ``level`` (empty), ``mean`` and ``sd`` (None where the paper
    gives none), ``seeds`` (behind the mean), ``status`` and ``note``.
    """
    rows = tsv.read_tsv(path, RETRIEVAL_COLUMNS)
    return _checked(
        path, ({"factor": "", "level": "", "note": ""} | row for row in rows), RETRIEVAL_SEEDS
    )


def read_ablations(path) -> list[dict]:
    """The published ablations: as ``read_retrieval``, with ``factor`` and ``level``."""
    rows = tsv.read_tsv(path, ABLATION_COLUMNS)
    for line, row in enumerate(rows, start=2):
        one_of(row["factor"], FIXED, path, f"line {line}, factor")
        if row["factor"] == "finetuning_image/gene":
            words = [f"{image}/{gene}" for image in _TUNED for gene in _TUNED]
            one_of(row["level"], words, path, f"line {line}, level")
    return _checked(path, ({**row, "sd": ""} for row in rows), ABLATION_SEEDS)


def fits(training: Mapping, factor: str) -> bool:
    """Whether training options are those of a published table, whatever its level.

    ``factor`` is that of an ablation; empty for the tables of the benchmark.
    """
    held = FIXED[factor] if factor else BENCHMARK
    return all(_settings(training)[key] == value for key, value in held.items())


def level_of(training: Mapping, factor: str) -> str:
    """The level of an ablation that training options stand for; empty for the benchmark."""
    settings = _settings(training)
    if factor == "finetuning_image/gene":
        return "/".join(_TUNED[settings[f"{kind}_tuned"]] for kind in ("image", "gene"))
    return settings[factor] if factor else ""


_TUNED = ("frozen", "tuned")


def _settings(training: Mapping) -> dict:
    tuned = {f"{kind}_tuned": training[f"{kind}_tuning"] != "frozen" for kind in ("image", "gene")}
    return {key: training[key] for key in ("image_projection", "loss")} | tuned


def _checked(path, rows, seeds: int) -> list[dict]:
    checked, seen = [], {}
    for line, row in enumerate(rows, start=2):
        one_of(row["direction"], DIRECTIONS, path, f"line {line}, direction")
        for name in NAMES:
            if not row[name]:
                raise InputError(path, f"line {line}, {name}", "nothing", "name it")
        k, status = row["recall_at"], row["status"]
        if not k.isdigit() or int(k) < 1:
            raise InputError(path, f"line {line}, recall_at", repr(k), "give the k of Recall@k")
        numbers = {name: _share(path, line, name, row[name]) for name in ("mean", "sd")}
        if (status == REPORTED) != (numbers["mean"] is not None):
            given = f"{row['mean'] or 'nothing'}, with status {status or 'empty'}"
            remedy = f"give a mean with status {REPORTED}, and none with any other"
            raise InputError(path, f"line {line}, mean", given, remedy)
        if not status:
            raise InputError(path, f"line {line}, status", "nothing", f"say {REPORTED}, or why not")
        entry = {name: row[name] for name in (*NAMES, "factor", "level", "status", "note")}
        entry |= {**numbers, "recall_at": int(k), "seeds": seeds}
        cell = tuple(entry[name] for name in (*NAMES, "factor", "level"))
        if cell in seen:
            again = f"the cell of line {seen[cell]} again"
            raise InputError(path, f"line {line}", again, "give each cell once")
        seen[cell] = line
        checked.append(entry)
    if not checked:
        raise InputError(path, "rows", "none", "copy the published table there again")
    return checked


def _share(path, line: int, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(path, f"line {line}, {column}", repr(text), "give a share from 0 to 1")
    return value

"""The sample table: one row per sample."""

from collections.abc import Mapping
from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.options import read_schema, refuse_invalid
from pairscape.core.tsv import read_tsv

NO_FILE = {"none"}


def read_samples(path) -> dict[str, dict[str, str]]:
    """Read the sample table: rows by sample name, every column of the schema present."""
    schema = read_schema("samples")
    samples = {}
    for number, row in enumerate(read_tsv(path, schema["required"]), start=2):
        refuse_invalid(row, schema, path, f"line {number}")
        if row["sample"] in samples:
            raise InputError(
                path,
                f"line {number}, column sample",
                f"{row['sample']} for the second time",
                "give each sample one row and one name",
            )
        samples[row["sample"]] = {column: row.get(column, "") for column in schema["properties"]}
    return samples


def check_bundle_place(name: str, sample: Mapping, config: Mapping) -> None:
    """A zip is unpacked to <bundles>/<sample>, so it can neither lie there nor be simulated."""
    given = sample["bundle"]
    field = f"sample {name}, column bundle"
    if given.lower().endswith(".zip"):
        folder = Path(config["bundles"], name)
        if Path(config["bundles"], given).is_relative_to(folder):
            remedy = f"move it out of {folder}, where it is unpacked to, e.g. to {folder}.zip"
            raise InputError(config["samples"], field, repr(given), remedy)
    if given and sample["source"] == "simulated":
        raise InputError(
            config["samples"], field, repr(given), "leave it empty: the bundle is simulated"
        )

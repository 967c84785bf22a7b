"""The sample table: one row per sample."""

from pairscape.core.errors import InputError
from pairscape.core.names import refuse_alike
from pairscape.core.options import read_schema, refuse_invalid
from pairscape.core.tsv import read_tsv

NO_FILE = {"none"}
FROM_BUNDLE = "from_bundle"  # panel: the genes that the bundles of a dataset share
REGISTER = "register"  # he_alignment: register_image makes the file
GRID_WORDS = ("identity", "microns")  # the H&E lies as the morphology image does, or in µm
ALIGNMENT_WORDS = (*GRID_WORDS, REGISTER)  # what he_alignment may say instead of naming a file


def read_samples(path) -> dict[str, dict[str, str]]:
    """Read the sample table: rows by sample name, every column of the schema present."""
    schema = read_schema("samples")
    samples = {}
    for number, row in enumerate(read_tsv(path, schema["required"]), start=2):
        refuse_invalid(row, schema, path, f"line {number}")
        if row["sample"] in samples:
            fault = f"{row['sample']} for the second time"
            remedy = "give each sample one row and one name"
            raise InputError(path, f"line {number}, column sample", fault, remedy)
        samples[row["sample"]] = {column: row.get(column, "") for column in schema["properties"]}
    refuse_alike(samples, path, "column sample")
    for column in ("donor", "panel"):
        refuse_alike({row[column]: None for row in samples.values()}, path, f"column {column}")
    return samples

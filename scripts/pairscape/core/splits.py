"""The splits of a dataset, in their order."""

SPLITS = ("train", "val", "test")
# What is said of a section that is split into blocks, which are its parts.
ONE_SECTION = "blocks of one section: nothing follows about other sections or donors"


def part_name(sample: str, split: str) -> str:
    """The name of a sample's block in a dataset."""
    return f"{sample}-{split}"

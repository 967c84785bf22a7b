"""The shards of a dataset, opened together: whose they are, and how their rows are numbered."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairscape.core.errors import InputError, one_each
from pairscape.dataset import pair_shards


@dataclass(frozen=True)
class Shards:
    """Path, sample, number of rows and metadata of each shard of a dataset, in order.

    A row of the dataset is numbered through all of them.
    """

    paths: tuple[str, ...]
    samples: tuple[str, ...]
    row_counts: tuple[int, ...]
    metadata: tuple[dict, ...] = ()

    @classmethod
    def open(cls, paths: Sequence, samples: Sequence[str] | None = None) -> "Shards":
        """Read what the files say of themselves; given ``samples`` must stand in that order."""
        if samples is not None:
            one_each(paths, samples, "--shards")
        metadata = tuple(map(pair_shards.shard_metadata, paths))
        names = [facts["sample"] for facts in metadata]
        for i, (path, name) in enumerate(zip(paths, names, strict=True)):
            expected = name if samples is None else samples[i]
            if name != expected:
                remedy = f"give the shard of {expected} in this place"
                raise InputError(path, "sample", name, remedy)
            if name in names[:i]:
                raise InputError(path, "sample", f"{name} twice", "give each sample's shard once")
        rows = (pair_shards.read_shard_table(path).num_rows for path in paths)
        return cls(tuple(map(str, paths)), tuple(names), tuple(rows), metadata)

    @functools.cached_property
    def sha256(self) -> tuple[str, ...]:
        """The files' checksums, computed when they are first asked for; refuses a damaged file."""
        return tuple(map(pair_shards.shard_sha256, self.paths))

    @property
    def owner(self) -> np.ndarray:
        """(rows,) the number of each row's sample."""
        return np.repeat(np.arange(len(self.samples)), self.row_counts)

    def described(self) -> list[dict]:
        """Sample, rows and checksum of each, as the records of what is made of them hold them."""
        keys = ("sample", "rows", "sha256")
        facts = zip(self.samples, self.row_counts, self.sha256, strict=True)
        return [dict(zip(keys, values, strict=True)) for values in facts]

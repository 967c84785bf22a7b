"""Patches of two splits that are nearly the same picture: a hash of each, then a look at the pairs.

A patch is hashed by the signs of its horizontal and vertical brightness steps on a coarse grid
(a difference hash of 256 bits). Two patches are compared where one of the eight 32-bit words of
their hashes is the same, so that time grows with the number of patches and not with its square;
those whose hashes are near are then decoded and correlated. Patches without contrast (bare glass)
are left out: they are alike without being the same.

What it finds: copies, also re-encoded, rescaled or with another brightness. What it doesn't: a
turned, mirrored or shifted view of the same tissue.

Measured on two sections of one tumour (HER2ST C2 and C5, 112 µm patches): a copy at JPEG quality
50, 15 % darker or resized to two thirds has its hash within 24 bits in 96 to 99.9 % of patches, and
a correlation above 0.98 in all; no patch of the other section has one above 0.88.
"""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

GRID = 12  # cells a side; 12 x 11 horizontal steps and 11 x 12 vertical ones, 256 of them kept
WORDS = 8
MAX_DISTANCE = 24  # of 256 bits
MIN_CORRELATION = 0.95  # of 32 x 32 grey levels
MIN_CONTRAST = 6.0  # standard deviation of the coarse grid's grey levels; glass and ink have less
MAX_GROUP = 200  # patches that share a word; more of them share a smooth gradient, not a picture
SAME_TISSUE = 0.05  # share of a sample's patches; from here on two samples show the same tissue
MIN_SAME = 5  # patches


def patch_hash(encoded: bytes) -> tuple[np.ndarray, float]:
    """Hash of an encoded patch, uint32 (8,), and the contrast of its coarse grid.

    The contrast is the standard deviation of grey levels of 255.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(encoded))
    image.draft("L", (4 * GRID, 4 * GRID))  # a JPEG is decoded at a fraction of its size
    grey = np.asarray(image.convert("L").resize((GRID, GRID), Image.Resampling.BOX), np.float32)
    across, down = np.diff(grey, axis=1) > 0, np.diff(grey, axis=0) > 0
    bits = np.concatenate([across.ravel(), down.ravel()])[: 32 * WORDS]
    return np.packbits(bits).view(np.uint32), float(grey.std())


def hash_shard(path) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (N, 8) of the patches of a shard; and (N,) bool: which have contrast enough."""
    from pairscape.dataset import pair_shards

    column = pair_shards.read_shard_table(path)["image"]
    hashes = np.zeros((len(column), WORDS), np.uint32)
    contrast = np.zeros(len(column), np.float32)
    values = (value for chunk in column.chunks for value in chunk.field("bytes"))
    for at, value in enumerate(values):
        hashes[at], contrast[at] = patch_hash(value.as_buffer())
    return hashes, contrast >= MIN_CONTRAST


def find_near_identical(
    later: Sequence[np.ndarray], earlier: Sequence[np.ndarray], max_distance: int = MAX_DISTANCE
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Near-identical patches between two lists of samples, by their patches' hashes (n, 8).

    Yields for each pair of samples that have any: the number of the later, the number of the
    earlier, and the rows (k,) of the patches of either that match, one partner (the nearest) for
    each patch of the later.
    """
    left, left_sample, left_row = _join(later)
    right, right_sample, right_row = _join(earlier)
    if not len(left) or not len(right):
        return
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for word in range(WORDS):
        order = np.argsort(right[:, word], kind="stable")
        values = right[order, word]
        first = np.searchsorted(values, left[:, word], "left")
        last = np.searchsorted(values, left[:, word], "right")
        some = np.flatnonzero((last > first) & (last - first <= MAX_GROUP))
        for start in range(0, len(some), 1 << 14):  # bounds the memory of the candidates
            rows = some[start : start + (1 << 14)]
            sizes = last[rows] - first[rows]
            one = np.repeat(rows, sizes)
            steps = np.arange(len(one)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            other = order[np.repeat(first[rows], sizes) + steps]
            distance = np.bitwise_count(left[one] ^ right[other]).sum(1)
            for i in np.flatnonzero(distance <= max_distance):
                key = int(one[i]), int(right_sample[other[i]])
                near = int(distance[i]), int(other[i])
                best[key] = min(best.get(key, near), near)
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (one, sample), (_, other) in sorted(best.items()):
        rows = int(left_row[one]), int(right_row[other])
        pairs.setdefault((int(left_sample[one]), sample), []).append(rows)
    for (one, other), rows in sorted(pairs.items()):
        yield one, other, *np.array(rows).T


def patch_leaks(
    shards: Mapping[str, str], splits: Sequence[Mapping], words: str = "", progress=iter
) -> tuple[list[dict], dict]:
    """Near-identical patches between the splits of a dataset, as rows of leakage.

    Parameters
    ----------
    shards
        Path of each sample's shard.
    splits
        Rows of splits.tsv. A sample in two splits is told with all of its patches that aren't blank.
    words
        In which somebody owns up to what two splits share.
    progress
        Wraps the loop over the shards.

    Returns
    -------
    Rows of ``leakage.LEAKAGE`` (``spots`` are patches of ``sample``); counts: ``patches``, ``blank``.
    """
    from pairscape.dataset import leakage

    hashes, rows_of, counts = {}, {}, {"patches": 0, "blank": 0}
    for sample, path in progress(shards.items()):
        every, distinct = hash_shard(path)
        hashes[sample], rows_of[sample] = every[distinct], np.flatnonzero(distinct)
        counts["patches"] += len(every)
        counts["blank"] += int((~distinct).sum())
    sizes = leakage.split_sizes([{**row, "spots": len(hashes[row["sample"]])} for row in splits])
    by_split: dict[str, list[Mapping]] = {}
    for row in splits:
        by_split.setdefault(row["split"], []).append(row)
    leaks = []
    ordered = sorted(by_split, key=leakage.split_order)
    for earlier, later in itertools.combinations(ordered, 2):
        matches = find_near_identical(
            [hashes[row["sample"]] for row in by_split[later]],
            [hashes[row["sample"]] for row in by_split[earlier]],
        )
        for row in by_split[later]:
            count = len(hashes[row["sample"]])
            if count and row["sample"] in {other["sample"] for other in by_split[earlier]}:
                detail, touched = "the same patches, of one sample", {**row, "spots": count}
                both = {**row, "split": earlier}
                leaks.append(
                    leakage.make_leak("near_identical_patches", detail, touched, sizes, both)
                )
        for i, j, *rows in matches:
            both = by_split[later][i], by_split[earlier][j]
            one, other = (row["sample"] for row in both)
            if one == other:  # its patches are the same, whatever the search tells of each
                continue
            rows = np.array([rows_of[one][rows[0]], rows_of[other][rows[1]]])
            rows = rows[:, _correlation(shards[one], shards[other], *rows) >= MIN_CORRELATION]
            count = rows.shape[1]
            if not count:
                continue
            share = count / len(hashes[one])
            same = share >= SAME_TISSUE and count >= MIN_SAME
            finding = "near_identical_sample" if same else "near_identical_patches"
            detail = f"{share:.1%} of its patches that aren't blank; e.g. row {rows[0, 0]} and row "
            detail += f"{rows[1, 0]}"
            touched = {**both[0], "spots": count}
            leaks.append(leakage.make_leak(finding, detail, touched, sizes, both[1], words))
    return leakage.sort_leaks(leaks), counts


def _correlation(path, other_path, rows: np.ndarray, other_rows: np.ndarray) -> np.ndarray:
    """Correlation (k,) of the grey levels of pairs of patches."""
    from pairscape.dataset import pair_shards

    column = pair_shards.read_shard_table(path)["image"]
    other_column = pair_shards.read_shard_table(other_path)["image"]
    return np.array(
        [
            (_grey(column[int(row)]) * _grey(other_column[int(other)])).mean()
            for row, other in zip(rows, other_rows, strict=True)
        ]
    )


def _grey(image) -> np.ndarray:
    """A patch as 32 x 32 grey levels of mean 0 and standard deviation 1."""
    from PIL import Image

    patch = Image.open(io.BytesIO(image["bytes"].as_buffer()))
    patch.draft("L", (64, 64))
    grey = np.asarray(patch.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    return (grey - grey.mean()) / (grey.std() + 1e-6)


def _join(samples: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All hashes one below the other, with the number of their sample and their row in it."""
    sizes = [len(hashes) for hashes in samples]
    joined = np.concatenate([np.zeros((0, WORDS), np.uint32), *samples])
    sample = np.repeat(np.arange(len(sizes)), sizes)
    row = np.concatenate([np.zeros(0, int), *map(np.arange, sizes)])
    return joined, sample, row

"""Which rows of an array are the same vector: entries of a gallery that tie whatever BLAS rounds."""

import numpy as np

_CHUNK = 1 << 12


def kinds(array: np.ndarray) -> np.ndarray | None:
    """For each row the first row that equals it; None where all rows differ."""
    count, width = array.shape
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, _CHUNK):
        # Adding zero turns -0.0 into 0.0: equal numbers, other bits.
        bits = (array[start : start + _CHUNK] + np.float32(0)).view(np.uint32)
        hashes[start : start + _CHUNK] = (bits.astype(np.uint64) * factors).sum(axis=1)
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    if len(first) == count:
        return None
    kind = first[place.reshape(-1)]
    for start in range(0, count, _CHUNK):
        rows = slice(start, start + _CHUNK)
        if not (array[rows] == array[kind[rows]]).all():  # two vectors with one hash
            _, first, place = np.unique(
                array + np.float32(0), axis=0, return_index=True, return_inverse=True
            )
            return first[place.reshape(-1)]
    return kind


def distinct_rows(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The distinct rows and each row's place among them; the array and None where all differ."""
    kind = kinds(array)
    if kind is None:
        return array, None
    first, place = np.unique(kind, return_inverse=True)
    return array[first], place.reshape(-1)

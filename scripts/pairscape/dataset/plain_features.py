"""Features that no network makes: what a spot's place, colours or expression alone tell, for controls.

A pair of encoders is worth no more than what it has beyond these (see docs/encoders.md).
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from pairscape.dataset import given_embeddings, pair_shards
from pairscape.dataset.patch_reader import PatchReader
from pairscape.dataset.shards import Shards
from pairscape.encoders import specs

WAVES = 6  # of a section's side that its smoothest functions have
COLOUR_FEATURES = 12
_BLOCK = 256
# Of haematoxylin's optical density: what is above it is taken for a nucleus.
_NUCLEUS_DENSITY = 0.12
Features = tuple[int, Iterator[np.ndarray]]


def read(spec, weights, shards: Shards, folder) -> tuple[int, Iterator[np.ndarray], dict]:
    """The features of an encoder that has no network (``specs.has_network``): given, or computed here.

    Their width, blocks of rows, and what names them in their index. ``weights`` is the file of given
    embeddings; a scratch file of those lies in ``folder``.
    """
    if spec["builder"] == specs.GIVEN:
        return spec["width"], *given_embeddings.read(spec, weights, shards.paths, folder)
    width, blocks = BUILDERS[spec["builder"]](shards, spec)
    return width, blocks, {"weights_sha256": None, "fingerprint": None}


def expression(shards: Shards, spec) -> Features:
    """log(1 + counts), (rows, genes): a spot's own expression."""
    return len(shards.metadata[0]["genes"]), (np.log1p(block) for block in _counts(shards))


def library_size(shards: Shards, spec) -> Features:
    """Logarithms of a spot's counts and of its genes that have any, and their squares: (rows, 4)."""

    def blocks():
        for counts in _counts(shards):
            sizes = np.stack([counts.sum(1), (counts > 0).sum(1)], axis=1)
            sizes = np.log1p(sizes.astype(np.float32))
            yield np.concatenate([sizes, sizes**2], axis=1)

    return 4, blocks()


def coordinates(shards: Shards, spec) -> Features:
    """Where in its section a spot lies: products of cosine waves along its sides, (rows, 35).

    Each section is stretched to the unit square, as no place of it means the same in another.
    """
    waves = [one for one in product(range(WAVES), repeat=2) if any(one)]

    def blocks():
        for path in shards.paths:
            table = pair_shards.read_index(path)
            place = np.stack([table["x_um"].to_numpy(), table["y_um"].to_numpy()], axis=1)
            extent = np.ptp(place, axis=0)
            unit = (place - place.min(axis=0)) / np.where(extent > 0, extent, 1)
            x, y = (np.cos(np.pi * np.outer(side, range(WAVES))) for side in unit.T)
            yield np.stack([x[:, i] * y[:, j] for i, j in waves], axis=1).astype(np.float32)

    return len(waves), blocks()


def colours(shards: Shards, spec) -> Features:
    """A dozen statistics of a patch's stains and nuclei: (rows, 12).

    Mean and standard deviation of brightness, of haematoxylin, eosin and what is left (optical
    densities by ``skimage.color.rgb2hed``), of haematoxylin the 90th percentile; of its dark part the
    share of the patch, the number of pieces and their mean area, all as ``log1p``.
    """
    reader = PatchReader(shards.paths, spec["input"])
    starts = range(0, len(reader), _BLOCK)
    blocks = (reader.read(range(at, min(at + _BLOCK, len(reader)))) for at in starts)
    return COLOUR_FEATURES, (np.stack([*map(_colours_of, block)]) for block in blocks)


def _colours_of(patch: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2hed
    from skimage.measure import label

    stains = rgb2hed(patch)
    channels = [patch.mean(axis=2) / 255, *np.moveaxis(stains, 2, 0)]
    dark = channels[1] > _NUCLEUS_DENSITY
    pieces = int(label(dark, connectivity=1).max())
    sizes = [dark.mean(), pieces, dark.sum() / max(pieces, 1)]
    moments = [value for channel in channels for value in (channel.mean(), channel.std())]
    return np.array([*moments, np.quantile(channels[1], 0.9), *np.log1p(sizes)], np.float32)


def _counts(shards: Shards) -> Iterator[np.ndarray]:
    from pairscape.dataset import expression_counts

    counts = expression_counts.Counts(shards, shards.metadata[0]["genes"])
    return (block.astype(np.float32) for block in counts.blocks(np.arange(len(counts))))


BUILDERS: dict[str, Callable[[Shards, dict], Features]] = {
    "expression": expression,
    "coordinates": coordinates,
    "colours": colours,
    "library_size": library_size,
}

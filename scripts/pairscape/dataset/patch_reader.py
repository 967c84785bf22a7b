"""Reading patches: mapped from the shards, decoded once into place, normalised in one pass.

A patch's encoded bytes are mapped from the shard and decoded straight into its place in the batch,
where it stays uint8 (a quarter of float32) until the last step: augmentation works on it there, and
one fused pass makes it float32, on the CPU or on the device that it was brought to.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards
from pairscape.images import encoding

GREY = 128  # of a blanked spot


class PatchReader:
    """The patches of a dataset: ``reader.read(rows)`` is (B, crop_px, crop_px, 3) uint8.

    Rows are numbered through all shards. Only paths are pickled, so workers may be spawned; what a
    process maps, it maps at its first ``read``. Threads may read side by side.

    Parameters
    ----------
    shards
        The dataset's shards in order.
    input_spec
        An encoder's ``input``: ``resize_px``, ``crop_px``, ``interpolation``; with ``blank_spot`` a
        grey disc covers the spot in the middle.
    """

    def __init__(self, shards: Sequence, input_spec: Mapping):
        self.shards = [str(path) for path in shards]
        self.input = {key: input_spec[key] for key in encoding.SIZE_KEYS}
        self.row_counts = [pair_shards.read_shard_table(path).num_rows for path in self.shards]
        self.blank = input_spec.get("blank_spot", False)
        self._parts = None

    def __len__(self) -> int:
        return sum(self.row_counts)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_parts": None}

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Decode the patches of rows, resized and cropped as the encoder wants them.

        ``IndexError``: a row isn't in the dataset.
        """
        if self._parts is None:
            self._parts = _map_images(self.shards)
        starts, parts = self._parts
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} patches")
        crop_px = self.input["crop_px"]
        batch = np.empty((len(rows), crop_px, crop_px, 3), np.uint8)
        of_row = np.searchsorted(starts, rows, side="right") - 1
        for place, part, at in zip(batch, of_row, rows - starts[of_row], strict=True):
            path, first, images = parts[part]
            self._decode_into(place, images[int(at)].as_buffer(), path, first + int(at))
            if self.blank:
                place[_spot_disc(path, **self.input)] = GREY
        return batch

    def _decode_into(self, place: np.ndarray, encoded, path, row: int) -> None:
        """Decode one patch: straight into its place where it has the right size already."""
        import simplejpeg

        crop_px = self.input["crop_px"]
        if encoded is not None and self.input["resize_px"] == crop_px:
            data = np.frombuffer(encoded, np.uint8)
            if bytes(data[:3]) == encoding.JPEG:
                try:
                    if simplejpeg.decode_jpeg_header(data)[:2] == (crop_px, crop_px):
                        simplejpeg.decode_jpeg(data, "RGB", buffer=place)
                        return
                except ValueError as error:
                    raise encoding.damaged(path, row, error) from None
        place[:] = encoding.fit(encoding.decode(encoded, path, row), **self.input)


@functools.cache
def _spot_disc(path, resize_px: int, crop_px: int, interpolation: str) -> np.ndarray:
    """The pixels of a patch that its spot covers, (crop_px, crop_px): a disc around all of it."""
    facts = pair_shards.shard_metadata(path)
    patches, preset = facts["patches"], (facts["spots"] or {}).get("preset")
    if preset is None:
        remedy = "choose an encoder that needs no size of spots: this data set doesn't tell it"
        raise InputError(path, "spots.preset", "nothing", remedy)
    um_per_px = patches["um_per_px"] * patches["patch_px"] / resize_px
    reach_um = preset["size_um"] / 2 * (1 if preset["shape"] == "circle" else 2**0.5)
    middle = np.arange(crop_px) + 0.5 - crop_px / 2
    return np.hypot(middle, middle[:, None]) * um_per_px <= reach_um


def _map_images(shards: Sequence) -> tuple[np.ndarray, list]:
    """The record batches of shards: the first row of each, and (shard, first row there, images)."""
    starts, parts = [], []
    at = 0
    for path in shards:
        first = 0
        for chunk in pair_shards.read_shard_table(path)["image"].chunks:
            if len(chunk):
                starts.append(at)
                parts.append((path, first, chunk.field("bytes")))
            at, first = at + len(chunk), first + len(chunk)
    return np.asarray(starts, np.int64), parts

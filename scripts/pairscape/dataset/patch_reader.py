"""Reading patches: mapped from the shards, decoded once into place, normalised in one pass.

A patch's encoded bytes are mapped from the shard and decoded straight into its place in the batch,
where it stays uint8 (a quarter of float32) until the last step: augmentation works on it there, and
one fused pass makes it float32, on the CPU or on the device that it was brought to.
"""

from collections.abc import Iterable, Mapping, Sequence

import numba
import numpy as np

from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards

SIZE_KEYS = ("resize_px", "crop_px", "interpolation")
_JPEG = b"\xff\xd8\xff"


class PatchReader:
    """The patches of a dataset: ``reader.read(rows)`` is (B, crop_px, crop_px, 3) uint8.

    Rows are numbered through all shards. Only paths are pickled, so workers may be spawned; what a
    process maps, it maps at its first ``read``. Threads may read side by side.

    Parameters
    ----------
    shards
        The dataset's shards in order.
    input_spec
        An encoder's ``input``: ``resize_px``, ``crop_px``, ``interpolation``.

    Raises
    ------
    InputError
        A shard is missing, cut off, or no shard.
    """

    def __init__(self, shards: Sequence, input_spec: Mapping):
        self.shards = [str(path) for path in shards]
        self.input = {key: input_spec[key] for key in SIZE_KEYS}
        self.row_counts = [pair_shards.read_shard_table(path).num_rows for path in self.shards]
        self._parts = None

    def __len__(self) -> int:
        return sum(self.row_counts)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_parts": None}

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Decode the patches of rows, resized and cropped as the encoder wants them.

        Raises
        ------
        InputError
            An image is missing or can't be decoded.
        IndexError
            A row isn't in the dataset.
        """
        if self._parts is None:
            self._parts = _map_images(self.shards)
        starts, parts = self._parts
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} patches")
        crop_px = self.input["crop_px"]
        batch = np.empty((len(rows), crop_px, crop_px, 3), np.uint8)
        found = np.searchsorted(starts, rows, side="right") - 1
        for place, part, at in zip(batch, found, rows - starts[found], strict=True):
            path, first, images = parts[part]
            self._decode_into(place, images[int(at)].as_buffer(), path, first + int(at))
        return batch

    def _decode_into(self, place: np.ndarray, encoded, path, row: int) -> None:
        """Decode one patch: straight into its place where it has the right size already."""
        import simplejpeg

        crop_px = self.input["crop_px"]
        if encoded is not None and self.input["resize_px"] == crop_px:
            data = np.frombuffer(encoded, np.uint8)
            if bytes(data[:3]) == _JPEG:
                try:
                    if simplejpeg.decode_jpeg_header(data)[:2] == (crop_px, crop_px):
                        simplejpeg.decode_jpeg(data, "RGB", buffer=place)
                        return
                except ValueError as error:
                    raise _damaged(path, row, error) from None
        place[:] = fit(decode(encoded, path, row), **self.input)


def decode(encoded, path, row: int) -> np.ndarray:
    """Decode one stored image (JPEG by simplejpeg, anything else by Pillow) to (H, W, 3) uint8.

    Parameters
    ----------
    encoded
        The file's bytes, or a buffer of them.
    path, row
        The shard and the row it stands in, for the message.

    Raises
    ------
    InputError
        It can't be decoded.
    """
    import io

    import simplejpeg
    from PIL import Image, UnidentifiedImageError

    try:
        if encoded is None:
            raise ValueError("no image")
        data = np.frombuffer(encoded, np.uint8)
        if bytes(data[:3]) == _JPEG:
            return simplejpeg.decode_jpeg(data, "RGB")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (ValueError, OSError, UnidentifiedImageError) as error:
        raise _damaged(path, row, error) from None


def fit_all(patches: Iterable[np.ndarray], input_spec: Mapping) -> np.ndarray:
    """Bring patches (H, W, 3) uint8 to the size of an encoder's ``input``: (n, crop_px, crop_px, 3)."""
    size = {key: input_spec[key] for key in SIZE_KEYS}
    return np.stack([fit(patch, **size) for patch in patches])


def fit(patch: np.ndarray, resize_px: int, crop_px: int, interpolation: str) -> np.ndarray:
    """Resize a patch's shorter side to ``resize_px`` and cut out the centre of ``crop_px``.

    Resampled with antialiasing, by Pillow; a patch that has the size already isn't resampled.

    Parameters
    ----------
    patch
        (H, W, 3) uint8.
    interpolation
        ``bilinear`` or ``bicubic``.

    Returns
    -------
    (crop_px, crop_px, 3) uint8.
    """
    height, width = patch.shape[:2]
    if min(height, width) != resize_px:
        from PIL import Image

        method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[interpolation]
        ratio = resize_px / min(height, width)
        size = (round(width * ratio), round(height * ratio))
        patch = np.asarray(Image.fromarray(patch).resize(size, method))
    top, left = (patch.shape[0] - crop_px) // 2, (patch.shape[1] - crop_px) // 2
    return patch[top : top + crop_px, left : left + crop_px]


def normalise(batch: np.ndarray, mean: Sequence[float], std: Sequence[float]):
    """Make patches a model's input on the CPU: divide by 255, subtract the mean, divide by std.

    Parameters
    ----------
    batch
        (B, H, W, 3) uint8.
    mean, std
        Three numbers each, of values from 0 to 1.

    Returns
    -------
    A torch tensor (B, 3, H, W) float32.
    """
    import torch

    count, height, width, _ = batch.shape
    # Memory from numpy comes in huge pages; touching torch's for the first time takes thrice as
    # long as all the rest.
    images = np.empty((count, 3, height, width), np.float32)
    _normalise_into(images, np.ascontiguousarray(batch), *_scale_shift(mean, std))
    return torch.from_numpy(images)


def normalise_on_device(batch, mean: Sequence[float], std: Sequence[float]):
    """``normalise`` for a torch tensor (B, H, W, 3) uint8, on the device where it is.

    Patches go to the device as uint8, a quarter of the bytes. The result's memory format is
    channels last.
    """
    import torch

    scale, shift = (torch.from_numpy(x).to(batch.device) for x in _scale_shift(mean, std))
    return torch.addcmul(shift, batch.float(), scale).permute(0, 3, 1, 2)


def _scale_shift(mean, std) -> tuple[np.ndarray, np.ndarray]:
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


# Threads may run it side by side (nogil). Torch's own way takes three passes over the floats.
@numba.njit(
    "void(float32[:, :, :, ::1], uint8[:, :, :, ::1], float32[::1], float32[::1])",
    nogil=True,
    cache=True,
)
def _normalise_into(images, batch, scale, shift):
    for i in range(batch.shape[0]):
        for channel in range(3):
            # In registers: the compiler can't know that the images don't overlap these arrays.
            factor, term = scale[channel], shift[channel]
            for y in range(batch.shape[1]):
                for x in range(batch.shape[2]):
                    images[i, channel, y, x] = batch[i, y, x, channel] * factor + term


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


def _damaged(path, row: int, error) -> InputError:
    return InputError(
        path, f"image of row {row}", str(error), "delete the shard and export it again"
    )

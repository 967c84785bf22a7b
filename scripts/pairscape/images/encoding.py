"""Patches: encoded, decoded, fitted to an encoder's input."""

from collections.abc import Iterable, Mapping, Sequence

import numba
import numpy as np

from pairscape.core.errors import InputError, one_of

TISSUE_LUMA = 204  # of 255; see tissue_fraction
SIZE_KEYS = ("resize_px", "crop_px", "interpolation")
JPEG = b"\xff\xd8\xff"


def tissue_fraction(patch: np.ndarray) -> float:
    """The share of a patch's pixels (H, W, 3) that are tissue: those with a luma below 80 % of white.

    Luma (ITU-R 601), not saturation: the glass of a slide may be tinted by its scanner.
    """
    from PIL import Image

    return float((np.asarray(Image.fromarray(patch).convert("L")) < TISSUE_LUMA).mean())


def encode_patch(patch: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """The bytes of a patch as JPEG (4:2:0) or PNG (lossless).

    Half the colour resolution saves 15 % of the bytes and a quarter of the decoding time, and moves
    a grey level by 0.2 on average more than 4:4:4 at quality 95; slides come as 4:2:0, too.
    """
    one_of(encoding, ("jpeg", "png"), "--options", "patches.encoding")
    if encoding == "jpeg":
        import simplejpeg

        pixels = np.ascontiguousarray(patch)
        return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode(encoded, path, row: int) -> np.ndarray:
    """Decode one stored image (JPEG by simplejpeg, anything else by Pillow) to (H, W, 3) uint8.

    ``path`` and ``row`` are the shard and the row it stands in, for the message.
    """
    import io

    import simplejpeg
    from PIL import Image, UnidentifiedImageError

    try:
        if encoded is None:
            raise ValueError("no image")
        data = np.frombuffer(encoded, np.uint8)
        if bytes(data[:3]) == JPEG:
            return simplejpeg.decode_jpeg(data, "RGB")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (ValueError, OSError, UnidentifiedImageError) as error:
        raise damaged(path, row, error) from None


def fit_all(patches: Iterable[np.ndarray], input_spec: Mapping) -> np.ndarray:
    """Bring patches (H, W, 3) uint8 to the size of an encoder's ``input``: (n, crop_px, crop_px, 3)."""
    size = {key: input_spec[key] for key in SIZE_KEYS}
    return np.stack([fit(patch, **size) for patch in patches])


def fit(patch: np.ndarray, resize_px: int, crop_px: int, interpolation: str) -> np.ndarray:
    """Resize a patch's shorter side to ``resize_px`` and cut out the centre of ``crop_px``.

    ``bilinear`` or ``bicubic``, with antialiasing, by Pillow; a patch that has the size already
    isn't resampled.
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
    """Make patches (B, H, W, 3) uint8 a model's input on the CPU: a torch tensor (B, 3, H, W) float32.

    Divided by 255, less the mean, divided by std: three numbers each, of values from 0 to 1.
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


def damaged(path, row: int, error) -> InputError:
    """The refusal of a stored image that can't be decoded."""
    remedy = "delete the shard and export it again"
    return InputError(path, f"image of row {row}", str(error), remedy)

"""Augmentation of patches, each with its own draws, before they are normalised.

Every draw is a function of the seed, the step and the patch's row, so that neither the batch's
other patches nor the number of workers nor a resumed run changes what a patch becomes. What the
published code does otherwise (H6, H7, H8) is there when asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("flips", "hescape")
# HESCAPE's settings. Its centre crops of 512 or 256 px of the same slide are the whole or the half.
ZOOM = 2
BLUR_KERNEL_PX = [5, 9]  # width, height
BLUR_SIGMA_PX = (0.1, 5.0)
SHARPNESS = 2.0
# Keeps these draws apart from others of the same seed and step.
_STREAM = 0x61756721
_EVALUATION = 0x61756722


@dataclass(frozen=True)
class Augmentation:
    """How patches are augmented while a pair trains.

    Attributes
    ----------
    kind, per_batch, normalisation
        See ``augment``; ``kind`` None leaves the train patches as they are.
    crops_evaluation
        As published (H8): patches that are read without augmentation are cropped at random.
    """

    kind: str | None = None
    per_batch: bool = False
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None
    crops_evaluation: bool = False


PLAIN = Augmentation()


def augment(
    batch: np.ndarray,
    seed: int,
    step: int,
    rows: Sequence[int],
    kind: str,
    per_batch: bool = False,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> np.ndarray:
    """Augment patches, each for itself.

    Parameters
    ----------
    batch
        (B, H, W, 3) uint8, before normalisation.
    seed, step, rows
        What the draws are a function of; ``rows`` are the patches' rows in the dataset, (B,).
    kind
        ``flips``: left-right and up-down, each with probability 1/2. ``hescape``: the whole patch or
        its centre half at the same size, as likely; a Gaussian blur (5 x 9 px, sigma 0.1 to 5 px);
        sharpness 2 with probability 1/2; and flips.
    per_batch
        As published (H7): all patches take the draws of the first.
    normalisation
        As published (H6): mean and std of values from 0 to 1, by which patches are normalised before
        they are sharpened; torchvision then cuts off what isn't from 0 to 1. The result is then
        (B, 3, H, W) float32, normalised; without it (B, H, W, 3) uint8, a new array.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of augmentation: {', '.join(KINDS)}")
    made, sharpened = np.empty_like(batch), []
    drawn = draw(seed, step, rows, per_batch)
    for place, patch, draws in zip(made, batch, drawn, strict=True):
        sharpened.append(kind == "hescape" and draws[4] < 0.5)
        if kind == "hescape":
            sharpen = sharpened[-1] and normalisation is None
            patch = _hescape(patch, draws[0] < 0.5, draws[3], sharpen)
        place[:] = patch[:: -1 if draws[1] < 0.5 else 1, :: -1 if draws[2] < 0.5 else 1]
    return made if normalisation is None else _sharpen_normalised(made, sharpened, *normalisation)


def draw(seed: int, step: int, rows: Sequence[int], per_batch: bool = False) -> np.ndarray:
    """What patches are augmented by, (B, 5) from 0 to 1: zoom, two flips, blur, sharpness."""
    drawn_for = [rows[0]] * len(rows) if per_batch else rows
    drawn = [np.random.default_rng([_STREAM, seed, step, int(row)]).random(5) for row in drawn_for]
    return np.array(drawn).reshape(-1, 5)


def augment_together(batch, drawn, kind: str):
    """``augment`` of patches (B, H, W, 3) uint8 by ``draw``'s (B, 5), all at once where they lie.

    Both are torch tensors on one device, and so is the result. What each patch becomes is the same but
    for rounding, a grey level here and there.
    """
    import torch
    from torchvision.transforms.v2 import functional

    images = batch.permute(0, 3, 1, 2)
    if kind == "hescape":
        zoomed, sharpened = drawn[:, 0] < 0.5, drawn[:, 4] < 0.5
        images = images.clone()
        images[zoomed] = _zoom(images[zoomed])
        low, high = BLUR_SIGMA_PX
        images = _blur(images, low + (high - low) * drawn[:, 3])
        images[sharpened] = functional.adjust_sharpness(images[sharpened], SHARPNESS)
    for column, axis in ((1, 2), (2, 3)):
        flipped = (drawn[:, column] < 0.5)[:, None, None, None]
        images = torch.where(flipped, images.flip(axis), images)
    return images.permute(0, 2, 3, 1).contiguous()


def _blur(images, sigmas):
    """torchvision's ``gaussian_blur`` of images (B, 3, H, W), each by a sigma of its own, (B,)."""
    import torch

    count, channels, height, width = images.shape
    kernels = []
    for size in BLUR_KERNEL_PX:
        away = torch.arange(size, device=images.device, dtype=torch.float32) - (size - 1) / 2
        kernels.append(torch.softmax(-((away / sigmas[:, None].float()) ** 2) / 2, dim=1))
    across, down = kernels
    weight = (down[:, :, None] * across[:, None, :]).repeat_interleave(channels, 0)[:, None]
    half_width, half_height = (size // 2 for size in BLUR_KERNEL_PX)
    margins = (half_width, half_width, half_height, half_height)
    padded = torch.nn.functional.pad(images.float(), margins, mode="reflect")
    padded = padded.reshape(1, count * channels, *padded.shape[2:])
    blurred = torch.nn.functional.conv2d(padded, weight, groups=count * channels)
    return blurred.reshape(count, channels, height, width).round().to(images.dtype)


def crop_at_random(
    batch: np.ndarray, seed: int, rows: Sequence[int], per_batch: bool = False
) -> np.ndarray:
    """Validation and test patches as published (H8): the whole patch or its centre half, as likely.

    Parameters and result as for ``augment``; a patch is cropped alike each time it is read.
    """
    made = batch.copy()
    for place, row in zip(made, rows, strict=True):
        drawn_for = rows[0] if per_batch else row
        if np.random.default_rng([_EVALUATION, seed, int(drawn_for)]).random() < 0.5:
            place[:] = _zoom(_to_torch(place)).permute(1, 2, 0).numpy()
    return made


def _sharpen_normalised(batch: np.ndarray, chosen: Sequence[bool], mean, std) -> np.ndarray:
    from torchvision.transforms.v2 import functional

    from pairscape.images import encoding

    images = encoding.normalise(batch, mean, std)
    for image, sharpen in zip(images, chosen, strict=True):
        if sharpen:
            image[:] = functional.adjust_sharpness(image, SHARPNESS)
    return images.numpy()


def _to_torch(patch: np.ndarray):
    import torch

    return torch.from_numpy(patch).permute(2, 0, 1)


def _zoom(image):
    """The centre half of an image (..., 3, H, W), at its size."""
    from torchvision.transforms.v2 import functional

    height, width = image.shape[-2:]
    size = [height // ZOOM, width // ZOOM]
    corner = [(height - size[0]) // 2, (width - size[1]) // 2]
    return functional.resized_crop(image, *corner, *size, [height, width])


def _hescape(patch: np.ndarray, zoom: bool, blur: float, sharpen: bool) -> np.ndarray:
    """Zoom, blur and sharpen one patch; ``blur`` is from 0 to 1. All of it commutes with flips."""
    from torchvision.transforms.v2 import functional

    image = _to_torch(patch)
    if zoom:
        image = _zoom(image)
    low, high = BLUR_SIGMA_PX
    sigma = low + (high - low) * float(blur)
    image = functional.gaussian_blur(image.contiguous(), BLUR_KERNEL_PX, [sigma, sigma])
    if sharpen:
        image = functional.adjust_sharpness(image, SHARPNESS)
    return image.permute(1, 2, 0).numpy()

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
    for place, patch, row in zip(made, batch, rows, strict=True):
        drawn_for = rows[0] if per_batch else row
        draws = np.random.default_rng([_STREAM, seed, step, int(drawn_for)]).random(5)
        sharpened.append(kind == "hescape" and draws[4] < 0.5)
        if kind == "hescape":
            sharpen = sharpened[-1] and normalisation is None
            patch = _hescape(patch, draws[0] < 0.5, draws[3], sharpen)
        place[:] = patch[:: -1 if draws[1] < 0.5 else 1, :: -1 if draws[2] < 0.5 else 1]
    return made if normalisation is None else _sharpen_normalised(made, sharpened, *normalisation)


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
    """The centre half of an image (3, H, W), at its size."""
    from torchvision.transforms.v2 import functional

    height, width = image.shape[1:]
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

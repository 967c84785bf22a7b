"""Augmentation of patches, each with its own draws, before they are normalised.

Every draw is a function of the seed, the step and the patch's row, so that neither the batch's
other patches nor the number of workers nor a resumed run changes what a patch becomes.
"""

from collections.abc import Sequence

import numpy as np

KINDS = ("flips", "hescape")
# HESCAPE's settings. Its centre crops of 512 or 256 px of the same slide are the whole or the half.
ZOOM = 2
BLUR_KERNEL_PX = [5, 9]  # width, height
BLUR_SIGMA_PX = (0.1, 5.0)
SHARPNESS = 2.0
# Keeps these draws apart from others of the same seed and step.
_STREAM = 0x61756721


def augment(batch: np.ndarray, seed: int, step: int, rows: Sequence[int], kind: str) -> np.ndarray:
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

    Returns
    -------
    (B, H, W, 3) uint8, a new array.

    Notes
    -----
    ``hescape`` are the transforms of HESCAPE's data module with two of its faults mended: it draws
    once for a whole batch, and sharpens what is normalised already, which cuts off all that is
    negative.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of augmentation: {', '.join(KINDS)}")
    made = np.empty_like(batch)
    for place, patch, row in zip(made, batch, rows, strict=True):
        draws = np.random.default_rng([_STREAM, seed, step, int(row)]).random(5)
        if kind == "hescape":
            patch = _hescape(patch, draws[0] < 0.5, draws[3], draws[4] < 0.5)
        place[:] = patch[:: -1 if draws[1] < 0.5 else 1, :: -1 if draws[2] < 0.5 else 1]
    return made


def _hescape(patch: np.ndarray, zoom: bool, blur: float, sharpen: bool) -> np.ndarray:
    """Zoom, blur and sharpen one patch; ``blur`` is from 0 to 1. All of it commutes with flips."""
    import torch
    from torchvision.transforms.v2 import functional

    height, width = patch.shape[:2]
    image = torch.from_numpy(patch).permute(2, 0, 1)
    if zoom:
        size = [height // ZOOM, width // ZOOM]
        corner = [(height - size[0]) // 2, (width - size[1]) // 2]
        image = functional.resized_crop(image, *corner, *size, [height, width])
    low, high = BLUR_SIGMA_PX
    sigma = low + (high - low) * float(blur)
    image = functional.gaussian_blur(image.contiguous(), BLUR_KERNEL_PX, [sigma, sigma])
    if sharpen:
        image = functional.adjust_sharpness(image, SHARPNESS)
    return image.permute(1, 2, 0).numpy()

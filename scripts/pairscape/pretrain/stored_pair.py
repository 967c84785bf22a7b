"""A trained pair on disk: written, read and checked."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from pairscape.core import files
from pairscape.core.errors import InputError, missing_file
from pairscape.encoders import specs
from pairscape.pretrain import failures
from pairscape.pretrain.options import Training
from pairscape.pretrain.pair import FORMAT, Pair, build_towers, load_exactly, trunk_checksums
from pairscape.pretrain.side import Side, image_side


def save_pair(path, pair: Pair, state: Mapping, meta: Mapping) -> None:
    """Write ``model.ckpt``, all that ``load_pair`` needs. The same input makes the same bytes.

    ``state`` is what ``Pair.kept_state`` gave at the selected step: heads, adapters, and encoders that
    were trained whole; frozen trunks are told by their checksum. ``meta`` holds more facts, such as
    names.
    """
    # The archive's inner folder takes the file's name: without a file it is always the same.
    buffer = io.BytesIO()
    torch.save(
        {"format": FORMAT, "pair": pair.description, "meta": dict(meta), "state": dict(state)},
        buffer,
    )
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_pair(path, image_weights=None, gene_weights=None) -> tuple[Pair, dict]:
    """Read ``model.ckpt`` strictly: the pair in eval mode, and the metadata it was saved with.

    Weights are as for ``build_towers``, for trunks that ran in the training.
    """
    description, state, meta = read_stored(path)
    towers = build_towers(description, image_weights, gene_weights, with_state=True)
    _require_trunks(path, description, trunk_checksums(description, towers))
    try:
        pair = Pair(description, towers)
        pair.load_kept_state(state)
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None
    return pair.eval(), meta


def load_image_side(path, image_weights=None) -> tuple[Side, dict]:
    """Read the image side alone of a saved pair, strictly; no gene encoder is built.

    Weights aren't needed where ``specs.takes_stored_images``, and the side's tower is None then.
    Returns the side in eval mode, and the pair's description, whose ``trunk_sha256`` tells the encoder.
    """
    description, state, _ = read_stored(path)
    # Genes as if they were stored: their encoder stays unbuilt.
    widths = {"images": None, "genes": 0}
    if specs.takes_stored_images(description["training"]):
        widths["images"] = description["image_encoder"]["width"]
    wanted = {**description, "stored_width": widths}
    towers = build_towers(wanted, image_weights, with_state=True)
    _require_trunks(path, description, trunk_checksums(wanted, towers))
    try:
        side = image_side(wanted, towers["images"])
        place = {name: value for name, value in side.state_dict().items() if side.is_kept(name)}
        start = "images."
        kept = {name.removeprefix(start): v for name, v in state.items() if name.startswith(start)}
        load_exactly(place, kept)
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None
    return side.eval(), description


def read_stored(path) -> tuple[dict, dict, dict]:
    """Description, state and metadata of a saved pair."""
    record = Path(path).with_name(failures.FILE)
    if record.is_file():
        why = f"no run: {failures.read(record)['reason']}"
        raise InputError(path, "model", why, "delete it and pretrain again with more memory")
    try:
        if (fault := files.zip_fault(path)) is not None:
            raise ValueError(fault)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}, not {FORMAT}")
        description, state, meta = stored["pair"], stored["state"], stored["meta"]
        if "trunk_sha256" not in description:
            raise KeyError("trunk_sha256")
        Training(**description["training"])  # of these options and no others
    except FileNotFoundError:
        raise missing_file(path, "pretrain first or correct the path") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from None
    return description, state, meta


def _require_trunks(path, description: Mapping, sums: Mapping[str, str]) -> None:
    """Refuse other frozen trunks than those that the pair was trained on."""
    expected = description["trunk_sha256"]
    for side, sha256 in sums.items():
        if sha256 != expected.get(side):
            known = str(expected.get(side))
            others = f"others ({sha256[:12]}) than it was trained on ({known[:12]})"
            remedy = "give the weights of its training, see options.json beside it"
            raise InputError(path, f"weights of the {side}", others, remedy)


def _damaged(path, error) -> InputError:
    return InputError(path, "model", str(error).split("\n")[0], "delete it and pretrain again")

"""The encoders' files: finding, reading and refusing them. Light: it loads no model."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from pairscape.core import files
from pairscape.core.errors import InputError, allowed_words
from pairscape.core.options import load_yaml, read_schema, refuse_invalid
from pairscape.encoders import specs as encoders

KINDS = ("image", "gene")
PLAIN = (
    "expression",
    "coordinates",
    "colours",
    "library_size",
)  # pairscape/dataset/plain_features.py
GIVEN = "given"  # the builder of embeddings that another program has made
_NAMES_OF_WEIGHTS = ("source", "location", "file")


def list_encoders(root, kind: str) -> list[str]:
    """The names of all declared encoders of a kind (``image`` or ``gene``), sorted.

    ``root`` is the folder that holds ``image/`` and ``gene/``, one YAML file per encoder.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of encoder: {', '.join(KINDS)}")
    return sorted(path.stem for path in (Path(root) / kind).glob("*.yaml"))


def encoder_file(root, kind: str, name: str) -> Path:
    """The path of an encoder's file, whether it is there or not."""
    return Path(root) / kind / f"{name}.yaml"


def read_encoder(root, kind: str, name: str) -> dict:
    """Read the file of one encoder.

    A file that says ``variant_of: <other encoder>`` holds only what differs from that encoder's:
    mappings are merged, any other value takes the place of the other's.

    Parameters
    ----------
    root
        The folder that holds ``image/`` and ``gene/``.
    kind
        ``image`` or ``gene``.
    name
        The encoder's name.

    Returns
    -------
    The encoder in full. A variant keeps ``variant_of``; where it takes its weights from the same
    file as the other, ``weights_of`` is added, for ``weights_name``.
    """
    spec, path = _read_file(root, kind, name), encoder_file(root, kind, name)
    base_name = spec.get("variant_of")
    if base_name is not None:
        if base_name not in list_encoders(root, kind) or base_name == name:
            raise InputError(
                path, "variant_of", repr(base_name), f"name another {kind} encoder of this folder"
            )
        base = _read_file(root, kind, base_name)
        if "variant_of" in base:
            fault = f"{base_name}, a variant of {base['variant_of']}"
            remedy = f"write variant_of: {base['variant_of']}, and what differs from it"
            raise InputError(path, "variant_of", fault, remedy)
        if "title" not in spec:
            raise InputError(path, "title", "nothing", "give the variant a title of its own")
        spec = _merged(base, spec)
        if spec.get("weights") and all(
            spec["weights"].get(key) == (base.get("weights") or {}).get(key)
            for key in _NAMES_OF_WEIGHTS
        ):
            spec["weights_of"] = base_name
    if spec.get("kind") != kind:
        raise InputError(
            path, "kind", repr(spec.get("kind")), f"write kind: {kind}, or move the file"
        )
    return spec


def weights_name(spec: Mapping, name: str) -> str:
    """The encoder in whose folder the weights lie: a variant shares the file of its base."""
    return spec.get("weights_of", name)


def features_name(spec: Mapping, name: str) -> str:
    """The encoder whose stored features are used: shuffled pairs need none of their own."""
    return spec["variant_of"] if spec.get("shuffle_pairs") else name


def takes_stored_images(training: Mapping) -> bool:
    """Whether a pair's image side embeds what its encoder, as it came, makes of an image."""
    return (
        training["image_tuning"] == "frozen"
        and training["frozen_trunks"] == "eval"  # else its batch statistics are others
        and training["image_projection"] != "transformer"
    )


def augmentation_kind(training: Mapping) -> str | None:
    """The augmentation of the train patches that are read in the training, or None."""
    kind = training["augmentation"]
    if kind == "auto":
        kind = "none" if training["image_tuning"] == "frozen" else "hescape"
    return None if kind == "none" else kind


def uses_train_facts(spec: Mapping) -> bool:
    """Whether a gene encoder's input depends on the train split (``expression_counts.TrainFacts``)."""
    options = spec["input"]
    return (
        options.get("library_size") == "train_median"
        or options.get("technology_mean") == "train_split"
    )


def spec_sha256(spec: Mapping) -> str:
    """A checksum of what decides an encoder's output: its file without titles and notes."""
    words = {"title", "citation", "notes", "built", "finetuning", "control", "shuffle_pairs"}
    words |= {"variant_of", "weights_of"}
    facts = {key: value for key, value in spec.items() if key not in words}
    if "code" in facts:
        facts["code"] = facts["code"]["sha256"]  # wherever the file lies
    return files.sha256_json(facts)


def _read_file(root, kind: str, name: str) -> dict:
    allowed = list_encoders(root, kind)
    path = encoder_file(root, kind, name)
    if name not in allowed:
        fault = f"no encoder named {name!r}"
        raise InputError(path, f"{kind} encoder", fault, allowed_words(name, allowed))
    try:
        spec = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, "YAML", str(error), "correct the file") from None
    if not isinstance(spec, dict):
        raise InputError(path, "kind", type(spec).__name__, f"write kind: {kind}, and the rest")
    return spec


def _merged(base: Mapping, change: Mapping) -> dict:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def require_built(spec: Mapping, file) -> None:
    """Refuse an encoder that is declared but that this version can't build.

    Parameters
    ----------
    spec
        What ``read_encoder`` returned.
    file
        The encoder's file, for the message.
    """
    if spec.get("built") is not True:
        fault = f"{str(spec.get('built')).lower()}: {spec.get('title')} is declared, not built yet"
        raise InputError(file, "built", fault, "use an encoder whose file says built: true")


def has_network(spec: Mapping) -> bool:
    """Whether there is a network to build and tune; else rows are given, or computed from the pairs."""
    return spec["builder"] not in (*PLAIN, GIVEN)


def sees_patches(spec: Mapping) -> bool:
    """Whether an image encoder can embed any patch, of a new image or a slide, too."""
    return has_network(spec) and not spec["input"].get("blank_spot")


def is_paired(gene: Mapping) -> bool:
    """Whether a gene encoder's given embeddings are in the space of an image encoder's."""
    return "paired_with" in gene["arguments"]


def read_encoders(root) -> dict[str, dict[str, dict]]:
    """All declared encoders, checked: ``{"image": {name: spec}, "gene": {name: spec}}``.

    Citations and notes are left out: they change nothing that is computed.
    """
    schema = read_schema("encoder")
    found = {}
    for kind in encoders.KINDS:
        found[kind] = {}
        for name in encoders.list_encoders(root, kind):
            spec = encoders.read_encoder(root, kind, name)
            refuse_invalid(spec, schema, encoders.encoder_file(root, kind, name), "")
            found[kind][name] = {
                key: value for key, value in spec.items() if key not in ("citation", "notes")
            }
    return found

"""The encoders' files: finding, reading and refusing them. Light: it loads no model."""

import difflib
from collections.abc import Mapping
from pathlib import Path

import yaml

from pairscape.errors import InputError

KINDS = ("image", "gene")


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

    Parameters
    ----------
    root
        The folder that holds ``image/`` and ``gene/``.
    kind
        ``image`` or ``gene``.
    name
        The encoder's name.

    Raises
    ------
    InputError
        There is no such encoder, its file isn't YAML, or it is of another kind.
    """
    allowed = list_encoders(root, kind)
    path = encoder_file(root, kind, name)
    if name not in allowed:
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            path,
            f"{kind} encoder",
            f"no encoder named {name!r}",
            f"{hint}allowed: {', '.join(allowed) or 'none'}",
        )
    try:
        spec = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, "YAML", str(error), "correct the file") from None
    if not isinstance(spec, dict) or spec.get("kind") != kind:
        found = spec.get("kind") if isinstance(spec, dict) else type(spec).__name__
        raise InputError(path, "kind", repr(found), f"write kind: {kind}, or move the file")
    return spec


def require_built(spec: Mapping, file) -> None:
    """Refuse an encoder that is declared but that this version can't build.

    Parameters
    ----------
    spec
        What ``read_encoder`` returned.
    file
        The encoder's file, for the message.

    Raises
    ------
    InputError
        ``built`` isn't true.
    """
    if spec.get("built") is not True:
        raise InputError(
            file,
            "built",
            f"{str(spec.get('built')).lower()}: {spec.get('title')} is declared, not built yet",
            "use an encoder whose file says built: true",
        )

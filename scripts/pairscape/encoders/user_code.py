"""Gene encoders whose network is a Python file of the user's, which runs only where that is allowed.

An encoder's file says ``builder: module`` and ``arguments: {architecture: <file>.py}``. The plan adds
``code`` (the file and its checksum) where the configuration's ``allow_code_in`` names the folder that
holds it. A program that was given such an encoder in its options runs that file and no other; a saved
pair, which names it as well, allows nothing by itself.
"""

import hashlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError

BUILDER = "module"
_allowed: set[str] = set()  # checksums


def with_code(spec: Mapping, root, allowed_in) -> dict:
    """An encoder with the ``code`` that it may run, if ``allowed_in``, a folder, holds its file.

    ``root`` is the folder of image/ and gene/; the file is named from gene/.
    """
    if spec["builder"] != BUILDER or not allowed_in:
        return dict(spec)
    path = Path(root, "gene", str(spec["arguments"].get("architecture", "")))
    if not path.is_file():
        remedy = "put the Python file there, or correct arguments.architecture"
        raise InputError(path, f"architecture of {spec['title']}", "no such file", remedy)
    if not path.resolve().is_relative_to(Path(allowed_in).resolve()):
        return dict(spec)
    return {**spec, "code": {"file": str(path), "sha256": files.sha256_file(path)}}


def require_allowed(spec: Mapping, name: str, source, place: str) -> None:
    """Refuse an encoder whose file of code the configuration doesn't allow."""
    if spec["builder"] == BUILDER and "code" not in spec:
        fault = f"{name}, which runs code of its own ({spec['arguments'].get('architecture')})"
        remedy = "read that file, then allow the folder that holds it: allow_code_in: <folder>"
        raise InputError(source, place, fault, remedy)


def allow(spec: Mapping) -> None:
    """Let this process run the code of an encoder that the options of its job hold."""
    if spec.get("code"):
        _allowed.add(spec["code"]["sha256"])


def load(spec: Mapping):
    """The module of an encoder; it has ``build(spec, weights, genes, train)``.

    What runs is what was checked: the bytes that have the checksum.
    """
    code = spec.get("code")
    if not code or code["sha256"] not in _allowed:
        remedy = "make it by a job of a configuration with allow_code_in: <folder of the file>"
        raise InputError(spec["title"], "builder", "code that nobody has allowed here", remedy)
    try:
        content = Path(code["file"]).read_bytes()
    except OSError as error:
        remedy = "put the Python file of this encoder back"
        raise InputError(code["file"], "file", error.strerror, remedy) from None
    if hashlib.sha256(content).hexdigest() != code["sha256"]:
        remedy = "start snakemake again, which plans with the file as it is now"
        raise InputError(code["file"], "sha256", "another file than was planned with", remedy)
    module = types.ModuleType(f"pairscape_code_{code['sha256'][:12]}")
    module.__file__ = code["file"]
    sys.modules[module.__name__] = module
    exec(compile(content, code["file"], "exec"), module.__dict__)
    if not callable(getattr(module, "build", None)):
        remedy = "define build(spec, weights, genes, train) that returns a GeneTower"
        raise InputError(code["file"], "build", "nothing", remedy)
    return module

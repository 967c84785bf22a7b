"""Text is read and written as UTF-8, whatever the locale: each call that opens text says so."""

import ast

import pytest
from conftest import ROOT

SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TEXT = {"read_text", "write_text", "TextIOWrapper"}
OPENS = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"}
RUNS = {"run", "Popen", "check_output"}
BINARY = {"h5py", "tifffile", "os", "Image", "packed"}  # their open() knows of no encoding


def calls_without_encoding(source: str) -> list[int]:
    """The lines of calls that open text in whatever encoding the locale has."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in RUNS and owner == "subprocess":
            text = {"text", "universal_newlines"} & set(named)
        elif name in OPENS and (not (owner in BINARY or owner.istitle()) or name == "fdopen"):
            method = isinstance(call.func, ast.Attribute) and owner not in (
                "gzip",
                "io",
                "tempfile",
            )
            modes = [named.get("mode"), *call.args[0 if method else 1 :][:1]]
            parts = [part for mode in modes if mode for part in ast.walk(mode)]
            words = [part.value for part in parts if isinstance(part, ast.Constant)]
            mode = "".join(word for word in words if isinstance(word, str))
            packed = owner in ("gzip", "tempfile") and "t" not in mode
            text = not packed and "b" not in mode
        else:
            text = name in TEXT
        encoding = getattr(named.get("encoding"), "value", "")
        if text and encoding not in ("utf-8", "utf-8-sig"):
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_text_is_opened_as_utf_8(path):
    assert calls_without_encoding(path.read_text(encoding="utf-8")) == []


def test_calls_without_encoding_are_seen():
    bad = "open(p)\nopen(p, 'w')\np.read_text()\np.write_text(t)\np.open()\ngzip.open(p, 'rt')\n"
    assert calls_without_encoding(bad + "subprocess.run(a, text=True)") == [1, 2, 3, 4, 5, 6, 7]
    good = "open(p, 'rb')\nopen(p, encoding='utf-8')\np.open('wb')\ngzip.open(p)\nh5py.open(p)\n"
    assert calls_without_encoding(good) == []

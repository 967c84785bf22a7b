"""The shape of the library: rooms on floors, small files, one line per module in docs/library.md."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "scripts" / "pairscape"
MODULES = sorted(LIBRARY.rglob("*.py"))
PROGRAMS = sorted((ROOT / "scripts").glob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 80


def floors() -> list[list[str]]:
    """The rooms from the top floor down, as the contract of import-linter has them."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    return [layer.split(" | ") for layer in layers]


def test_every_module_stands_in_a_room():
    rooms = {room for floor in floors() for room in floor}
    outside = [
        path.relative_to(LIBRARY).as_posix()
        for path in MODULES
        if path.relative_to(LIBRARY).parts[0] not in rooms and path != LIBRARY / "__init__.py"
    ]
    assert outside == [], "give each file a room of DESIGN's floors (pyproject.toml, importlinter)"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=str)
def test_the_first_page_of_a_room_is_documentation_alone(path):
    if path == LIBRARY / "__init__.py":
        pytest.skip("the package's own page holds its version")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert all(isinstance(part, ast.Expr) for part in body), f"{path}: move code into a module"


def is_kernel(function: ast.FunctionDef) -> bool:
    """Whether numba compiles it: kernels are long where inlining is what makes them fast."""
    decorators = " ".join(ast.unparse(decorator) for decorator in function.decorator_list)
    return "njit" in decorators or "numba." in decorators


def test_no_file_and_no_function_is_too_long():
    too_long = []
    for path in [*MODULES, *PROGRAMS]:
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > LONGEST_FILE:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not is_kernel(node):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name}: {length} lines")
    assert too_long == []


def library_page() -> str:
    """The modules in docs/library.md: the first line of each docstring, by floor and room."""
    lines = []
    for floor in floors():
        for room in floor:
            folder = LIBRARY / room
            lines += [f"## {room}", "", first_line(folder / "__init__.py"), ""]
            lines += ["| module | what it holds |", "| --- | --- |"]
            for path in sorted(folder.rglob("*.py")):
                if path.name != "__init__.py":
                    name = path.relative_to(folder).as_posix()
                    lines.append(
                        f"| [{name}](../scripts/pairscape/{room}/{name}) | {first_line(path)} |"
                    )
            lines.append("")
    return "\n".join(lines)


def first_line(path) -> str:
    """The first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].replace("|", "\\|")


def test_the_page_of_the_library_is_that_of_the_tree():
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert library_page() in page, "write it anew: python tests/core/test_rooms.py"


if __name__ == "__main__":
    target = ROOT / "docs" / "library.md"
    head = target.read_text(encoding="utf-8").split("\n## ")[0]
    target.write_text(f"{head}\n{library_page()}", encoding="utf-8")

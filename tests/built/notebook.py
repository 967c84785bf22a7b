"""docs/embed_new_image.ipynb, made from the cells of docs/embed_new_image.py; run it to write it."""

import re
from pathlib import Path

import nbformat

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "embed_new_image.py"


def made() -> str:
    """The notebook as text, without outputs."""
    cells = []
    parts = re.split(r"^# %%( \[markdown\])?\n", SCRIPT.read_text(encoding="utf-8"), flags=re.M)
    for number, (kind, text) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        if kind:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        new = nbformat.v4.new_markdown_cell if kind else nbformat.v4.new_code_cell
        cells.append(new(text.strip("\n"), id=f"cell-{number}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


if __name__ == "__main__":
    SCRIPT.with_suffix(".ipynb").write_text(made(), encoding="utf-8")

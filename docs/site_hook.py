"""For `make docs`: links to files outside docs/ stay words, as the site doesn't hold those files."""

import re


def on_page_markdown(markdown: str, **_) -> str:
    """Called by MkDocs with each page."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)

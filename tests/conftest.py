"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared facts and real inputs; tests that need it are skipped without it."""
    folder = Path(os.environ.get("PAIRSCAPE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder} (set PAIRSCAPE_SHARED)")
    return folder


def pytest_collection_modifyitems(items) -> None:
    """Files with slow tests first: at the end one worker would be alone with them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

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

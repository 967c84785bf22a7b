"""A small cohort of slides as feature files, whose label some of the patches tell."""

from pathlib import Path

import numpy as np

from pairscape.core import files
from pairscape.slides import cohorts, site_folds, slide_features

WIDTH, PATCHES, SIDE_PX = 12, 16, 256
TARGET = "MSI"


def write_slides(
    folder, patients: int, signal=5.0, seed=0, folds=3, width=WIDTH, patches=PATCHES
) -> dict:
    """Write a cohort table, slides.tsv with its features, and folds; return their paths.

    A third of each fold has label 1. The third patient has two slides, the last but one no
    features, the last no label.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    table, listed, dealt = [], [], []
    for number in range(patients):
        label = int(number // folds % 3 == 1) if number < patients - 1 else None
        patient, site = f"P{number:02d}", f"S{number % folds}"
        for part in range(2 if number == 2 else 1):
            slide = f"{patient}-{part}"
            table.append({"slide": slide, "patient": patient, "site": site, TARGET: label})
            table[-1] |= {"file": f"{slide}.tif", "um_per_px": None, "notes": ""}
            told = {"slide": slide, "status": "embedded", "reason": "", "patches": patches}
            if number == patients - 2:
                told |= {"status": "skipped", "reason": "no tissue", "patches": 0}
                listed.append({**told, "um_per_px": "", "file": "", "sha256": ""})
                continue
            features = rng.standard_normal((patches, width)).astype(np.float32)
            features[: patches // 2, 0] += signal * (label or 0)
            file = write_features(folder / f"{slide}.h5", features)
            told |= {"um_per_px": 0.5, "file": file, "sha256": files.sha256_file(file)}
            listed.append(told)
        if label is not None:
            dealt.append({"patient": patient, "site": site, "label": label, "fold": number % folds})
    paths = {name: folder / f"{name}.tsv" for name in ("cohort", "slides", "folds")}
    cohorts.write_cohort(paths["cohort"], table, [TARGET])
    slide_features.write_slides(paths["slides"], listed)
    site_folds.FOLDS.write(paths["folds"], dealt)
    return paths


def write_features(file, features, **attributes):
    """One slide's features, its patches in rows of four."""
    at = np.arange(len(features))
    coords = np.stack([at % 4, at // 4], axis=1) * SIDE_PX
    size = {"level0_width": 4 * SIDE_PX, "level0_height": int(coords[:, 1].max()) + SIDE_PX}
    given = {"patch_size_level0": SIDE_PX, "um_per_px": 0.5, **size, **attributes}
    slide_features.write_slide_features(file, [features], coords, features.shape[1], "tests", given)
    return file

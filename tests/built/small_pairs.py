"""A small synthetic sample for the tests of datasets: a slide, its alignment, spots and a shard."""

import json
import math

import numpy as np
import tifffile
from scipy import sparse

PIXEL_SIZE_UM = 0.2125
GENES = ("ACTA2", "CD3E", "EPCAM", "KRT8")
LABELS = {
    "name": ["S1", "S2", "S3"],
    "source": ["geo", "local", "simulated"],
    "tissue": ["breast", "lung"],
}
PATCHES = {"um_per_px": 0.5, "patch_px": 64, "encoding": "png"}


def sample_row(name: str = "S1", **changes) -> dict:
    row = {
        "sample": name,
        "panel": "human-breast-panel",
        "donor": f"D_{name}",
        "donor_known": "True",
        "organ": "breast",
        "disease_state": "Cancer",
        "oncotree_code": "IDC",
        "preservation": "FFPE",
        "source": "simulated",
        "license": "CC BY 4.0",
        "title": f"Sample {name}",
        "he_image": "",
        "he_alignment": "",
    }
    return {**row, **changes}


def write_slide(path, image: np.ndarray, um_per_px: float = 0.34, **options) -> None:
    """Write a uint8 (height, width, 3) image as OME-TIFF; lossless and tiled by default."""
    options = {"tile": (128, 128), "compression": "deflate", **options}
    size = {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px}
    tifffile.imwrite(
        path, image, photometric="rgb", metadata={"axes": "YXS", **size}, ome=True, **options
    )


def alignment_matrix(
    um_per_px: float, degrees: float = 0.0, mirrored: bool = False, shift_px=(0.0, 0.0)
) -> np.ndarray:
    """H&E pixels to morphology pixels: mirror of x, then a turn, a scale and a shift."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    matrix = np.eye(3)
    matrix[:2, :2] = um_per_px / PIXEL_SIZE_UM * linear
    matrix[:2, 2] = shift_px
    return matrix


def xenium_um(matrix: np.ndarray, he_px) -> np.ndarray:
    """H&E pixels (N, 2) in Xenium µm, written out here so that tests don't trust alignment.py."""
    return np.array(
        [(matrix @ [x, y, 1.0])[:2] * PIXEL_SIZE_UM for x, y in np.asarray(he_px, float)]
    )


def write_small_spots(path, xy_um, counts=None, genes=GENES, sample="S1", names=None) -> None:
    """Write the table of a spots.zarr (see spots.py), without importing spatialdata."""
    import anndata
    import pandas as pd

    xy_um = np.asarray(xy_um, float)
    if counts is None:
        counts = np.arange(len(xy_um) * len(genes)).reshape(len(xy_um), -1) % 7
    counts = np.asarray(counts, np.int32)
    obs = pd.DataFrame(
        {
            "array_row": np.arange(len(xy_um), dtype=np.int32),
            "array_col": np.zeros(len(xy_um), np.int32),
            "x_um": xy_um[:, 0],
            "y_um": xy_um[:, 1],
            "transcripts": counts.sum(1),
            "genes": (counts > 0).sum(1).astype(np.int32),
        },
        index=pd.Index(names or [f"{i:03d}x000" for i in range(len(xy_um))], name="spot"),
    )
    var = pd.DataFrame(
        {"gene_id": [f"ENSG{gene}" for gene in genes]}, index=pd.Index(genes, name="gene_symbol")
    )
    table = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
    table.uns["pairscape"] = json.dumps({"sample": sample, "pixel_size_um": PIXEL_SIZE_UM})
    path.mkdir(parents=True)
    table.write_zarr(path / "tables" / "counts")


def tissue_image(height: int = 700, width: int = 900, seed: int = 0) -> np.ndarray:
    """A uint8 image with structure at several scales."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(60, 230, (height // 50 + 1, width // 50 + 1, 3))
    image = coarse.repeat(50, 0).repeat(50, 1)[:height, :width]
    return (image + generator.integers(-20, 20, image.shape)).clip(0, 255).astype(np.uint8)


def export_sample(
    folder, name="S1", he_px=None, counts=None, patches=PATCHES, image=None, **changes
):
    """Make a slide, an alignment, spots and genes in ``folder``/``name`` and export the pairs.

    Returns the shard's path.
    """
    import export_pairs

    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    matrix = alignment_matrix(0.34, 30.0, True, (900.0, 250.0))
    if he_px is None:
        he_px = [[x, y] for y in (150.2, 350.0, 520.9) for x in (140.0, 400.7, 660.0)]
    if not (place / "spots.zarr").exists():
        write_small_spots(place / "spots.zarr", xenium_um(matrix, he_px), counts, sample=name)
    # Each sample has tissue of its own: the audit knows copies. That of S1 is tissue_image().
    own = int(name[-1]) - 1 if name[-1].isdigit() else 0
    write_slide(place / "he.ome.tif", tissue_image(seed=own) if image is None else image)
    np.savetxt(place / "alignment.csv", matrix, delimiter=",")
    genes = folder / "genes.tsv"
    genes.write_text("gene_symbol\tgene_id\n" + "".join(f"{g}\tENSG{g}\n" for g in GENES))
    shard = folder / "shards" / f"{name}.arrow"
    options = {
        "sample": sample_row(name, **changes),
        "dataset": "tiny",
        "patches": patches,
        "labels": LABELS,
    }
    export_pairs.main(
        [
            "--spots",
            str(place / "spots.zarr"),
            "--he-image",
            str(place / "he.ome.tif"),
            "--he-alignment",
            str(place / "alignment.csv"),
            "--genes",
            str(genes),
            "--shard",
            str(shard),
            "--options",
            json.dumps(options),
        ]
    )
    return shard

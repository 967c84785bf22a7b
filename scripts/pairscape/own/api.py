"""The library for notebooks: bundles, spots, pairs and trained pairs, as arrays and tables.

The examples run on what `make demo` leaves in ``results/demo``.
"""

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pairscape.core.options import CHECKOUT


@dataclass(frozen=True)
class Bundle:
    """A Xenium bundle: the folder that the instrument wrote.

    >>> bundle = open_bundle("results/demo/bundles/demo1")
    >>> bundle.pixel_size_um
    0.2125
    >>> len(bundle.genes)
    280
    >>> list(bundle.cells.columns)[:3]
    ['cell_id', 'x_centroid', 'y_centroid']
    """

    path: Path

    @cached_property
    def experiment(self) -> dict:
        """What ``experiment.xenium`` says."""
        from pairscape.acquire import bundle

        return bundle.read_experiment(self.path)

    @property
    def pixel_size_um(self) -> float:
        """Of the morphology image."""
        from pairscape.acquire import bundle

        return bundle.pixel_size_um(self.experiment)

    @cached_property
    def genes(self) -> list[str]:
        """The symbols of the panel, controls out."""
        from pairscape.acquire import bundle

        return [gene["gene_symbol"] for gene in bundle.read_panel(self.path)]

    @cached_property
    def cells(self):
        """The table of cells (pandas): id, centroid in µm, and what else the bundle has of them."""
        from pairscape.acquire import bundle

        return bundle.read_cells(self.path)

    def transcripts(self, columns=("feature_name", "x_location", "y_location", "qv")):
        """Yield the transcripts in batches (Arrow), in the order of the file and in bounded memory."""
        from pairscape.acquire import bundle

        return bundle.iter_transcripts(self.path, list(columns))


def open_bundle(path) -> Bundle:
    """Open a bundle; ``InputError`` where the folder holds none."""
    opened = Bundle(Path(path))
    opened.experiment  # noqa: B018  (refused here if there is none)
    return opened


def pool(bundle, **preset):
    """Pool a bundle's transcripts into spots (AnnData): counts, places in µm, genes.

    ``preset`` are keys of the spot presets, such as ``shape`` and ``size_um``; see
    ``workflow/schemas/spots.schema.yaml``. What needs an H&E is for the workflow.

    >>> spots = pool("results/demo/bundles/demo1", shape="hexagon", size_um=55)
    >>> spots.n_vars
    280
    >>> sorted(spots.obs.columns)[-2:]
    ['x_um', 'y_um']
    """
    import sys

    sys.path.insert(0, str(CHECKOUT / "scripts"))
    import pool_spots

    folder = bundle.path if isinstance(bundle, Bundle) else bundle
    with tempfile.TemporaryDirectory(prefix="pairscape_pool_") as made:
        files = {"spots": "spots.zarr", "audit": "audit.json", "table": "qc.tsv"}
        flags = [word for name, file in files.items() for word in (f"--{name}", f"{made}/{file}")]
        options = json.dumps({"spots": {"shape": "square", "size_um": 55, **preset}})
        pool_spots.main(["--bundle", str(folder), *flags, "--options", options])
        return read_spots(f"{made}/spots.zarr")


def read_spots(path):
    """The spots of a sample (AnnData) from ``spots.zarr``.

    >>> read_spots("results/demo/samples/demo1/square55/spots.zarr").uns["pairscape"]["sample"]
    'demo1'
    """
    from pairscape.spots import spots_zarr

    return spots_zarr.read_spots(path)


def load_dataset(folder, name: str, split: str):
    """The pairs of a split, as Hugging Face datasets load them.

    >>> test = load_dataset("results/demo/datasets", "simulated-breast", "test")
    >>> test[0]["image"].size
    (64, 64)
    """
    import datasets

    return datasets.load_dataset(str(folder), name, split=split)


@dataclass(frozen=True)
class Run:
    """A trained pair of encoders, and the embeddings that it stored.

    >>> pair = "tf_efficientnet_lite0_64px-mlp/seed24442"
    >>> run = load_run(f"results/demo/runs/demo/simulated-breast/{pair}")
    >>> patches = [row["image"] for row in test.select(range(3))]
    >>> embeddings = run.embed(patches)
    >>> embeddings.shape[0]
    3
    >>> nearest = run.retrieve(embeddings, count=2)
    >>> list(nearest["place"])
    [1, 2, 1, 2, 1, 2]
    """

    path: Path
    image_weights: str | None = None

    @cached_property
    def facts(self) -> dict:
        """Names of the encoders, the dataset, the seed."""
        from pairscape.slides import new_image

        return new_image.read_facts(self.path / "model.ckpt")

    @cached_property
    def _model(self):
        from pairscape.slides import new_image

        return new_image.load_model(self.path / "model.ckpt", self.image_weights)

    def embed(self, patches):
        """Embed patches into the shared space.

        Parameters
        ----------
        patches
            Images (PIL) or arrays of uint8, (side, side, 3), with the field of view that the pair
            was trained on.

        Returns
        -------
        (N, width) float32, rows of unit length.
        """
        import numpy as np

        from pairscape.encoders import image_encoders
        from pairscape.images.encoding import fit_all

        spec, size = self._model.spec, image_encoders.batch_size()
        arrays = [np.asarray(patch) for patch in patches]
        batches = (
            fit_all(arrays[at : at + size], spec["input"]) for at in range(0, len(arrays), size)
        )
        made = image_encoders.embed(self._model.tower, spec, lambda batch: batch, batches)
        embeddings = np.concatenate(list(made))
        project = self._model.project
        return embeddings if project is None else project(embeddings)

    def retrieve(self, embeddings, split: str = "test", count: int = 5):
        """The spots of a split whose gene profiles lie nearest (pandas): a row per patch and place."""
        import pandas as pd

        from pairscape.slides import new_image

        path = self.path / "embeddings" / f"{split}_genes.npy"
        gallery = new_image.read_gallery(path, self.facts)
        return pd.DataFrame(new_image.nearest_profiles(embeddings, gallery, count))


def load_run(folder, image_weights=None) -> Run:
    """A run by its folder, which holds ``model.ckpt``; ``image_weights`` where they were fetched."""
    run = Run(Path(folder), image_weights)
    run.facts  # noqa: B018  (refused here if there is none)
    return run

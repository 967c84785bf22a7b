"""The words of a tissue: cell types, domains, states and structures, and how nuclei look."""

from typing import NamedTuple

import numpy as np

KINDS = (
    "tumour",
    "epithelium",
    "fibroblast",
    "muscle",
    "lymphocyte",
    "macrophage",
    "endothelial",
    "adipocyte",
)
"""Cell types; a cell's ``kind`` is an index into them."""

DOMAINS = ("tumour", "adipose", "muscle", "immune", "stroma")
"""Tissue domains; a place belongs to the one with the largest share."""

STATES = ("grade", "collagen", "hypoxia", "oedema")
"""Continuous states of a place, each visible in the image and in the expression of some types."""

VOIDS = ("adipocyte", "duct", "vessel")
"""Round structures with an empty or bloody inside and cells on their rim."""

OUTLINE_POINTS = 24
"""Vertices of a nucleus or cell outline; the instrument writes 25, the first one twice."""

TUMOUR, EPITHELIUM, FIBROBLAST, MUSCLE, LYMPHOCYTE, MACROPHAGE, ENDOTHELIAL, ADIPOCYTE = range(8)

# Nucleus of each type: half axes in µm, spread of its size (log), amount of haematoxylin (optical
# density), irregularity of its outline. Textbook sizes of human nuclei, a little widened.
MAJOR_UM = np.array([4.7, 4.0, 6.4, 8.0, 2.9, 3.9, 5.6, 4.4])
MINOR_UM = np.array([3.9, 2.7, 1.5, 1.4, 2.7, 2.9, 1.2, 1.2])
SIZE_SD = np.array([0.13, 0.08, 0.14, 0.12, 0.07, 0.14, 0.14, 0.10])
HAEMATOXYLIN = np.array([0.62, 0.75, 0.78, 0.70, 1.10, 0.70, 0.85, 0.85])
WOBBLE = np.array([0.06, 0.03, 0.04, 0.03, 0.03, 0.11, 0.03, 0.04])


class Voids(NamedTuple):
    """Round structures: their centres and radii in µm, kind (of ``VOIDS``), phase of their outline."""

    x_um: np.ndarray
    y_um: np.ndarray
    radius_um: np.ndarray
    kind: np.ndarray
    phase: np.ndarray

    def take(self, chosen: np.ndarray) -> "Voids":
        """The chosen ones."""
        return Voids(*(column[chosen] for column in self))

    def reach(self, *beyond_um: float) -> np.ndarray:
        """Their radii and what each kind reaches beyond them."""
        return self.radius_um + np.choose(self.kind, beyond_um)

"""A sample drawn in memory: its tissue and the transcripts that it causes."""

from dataclasses import dataclass

import numpy as np

from pairscape.simulation import panel as panels
from pairscape.simulation import programmes, tissue, transcripts


@dataclass(frozen=True)
class Drawn:
    """A sample: what was asked for, and what came of it."""

    knobs: dict  # of ``knobs.resolve_knobs``
    seeds: dict  # of ``knobs.sample_seeds``
    tissue: tissue.Tissue  # that makes the transcripts
    features: dict  # of ``panel.feature_table``
    molecules: dict  # of ``transcripts.draw_transcripts``
    shift: np.ndarray  # of ``programmes.donor_shift``

    @property
    def genes(self) -> int:
        """How many of the features are genes; they come first."""
        return len(self.shift)


def draw_sample(knobs: dict, seeds: dict, panel: panels.Panel) -> Drawn:
    """Grow a sample's tissue and draw its transcripts."""
    grown = tissue.grow_tissue(knobs, seeds["expression"])
    shift = programmes.donor_shift(panel.symbols, knobs, seeds)
    made = programmes.gene_programmes(panel.symbols, panel.means, seeds)
    molecules = transcripts.draw_transcripts(grown, knobs, seeds, made, shift)
    return Drawn(knobs, seeds, grown, panels.feature_table(panel, seeds), molecules, shift)

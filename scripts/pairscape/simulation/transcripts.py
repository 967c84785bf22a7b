"""The transcripts that a tissue causes."""

import numpy as np

from pairscape.simulation import kinds
from pairscape.simulation import knobs as knob
from pairscape.simulation.panel import CONTROLS
from pairscape.simulation.programmes import RNA_CONTENT, STATE_GAIN, TYPICAL_SHARE
from pairscape.simulation.segmentation import outline_cells
from pairscape.simulation.tissue import Tissue, grid_value, inside_share

AMBIENT_SHARE = 0.06
"""Share of transcripts that lie anywhere in the tissue; a tenth of their density, on glass."""

NUCLEAR_SHARE = 0.42
LEAK_SHARE = 0.25
LEAK_UM = 7.0

# How often each of ``CONTROLS`` is decoded, well and badly.
_CONTROL_SHARE_GOOD = np.array([0.45, 0.10, 0.15, 0.28, 0.02])
_CONTROL_SHARE_BAD = np.array([0.05, 0.02, 0.23, 0.68, 0.02])

CHUNK_CELLS = 2000


def draw_transcripts(
    tissue: Tissue,
    knobs: dict,
    seeds: dict,
    programmes: tuple[np.ndarray, np.ndarray],
    shift: np.ndarray,
) -> dict:
    """All molecules of a sample, in no order, as columns.

    Columns: feature (index into ``panel.feature_table``), x_um, y_um, z_um, qv (all float32). Places
    are multiples of 1/64 µm, as the instrument writes them, within the region. ``programmes`` and
    ``shift`` are those of ``programmes.gene_programmes`` and ``donor_shift``.
    """
    random = knob.rng(seeds["molecules"], "transcripts")
    n_genes = len(shift)
    share = inside_share(tissue, knobs)
    tiles = knobs["width_um"] * knobs["height_um"] / knob.SPOT_UM**2
    per_tile = knobs["transcripts_per_spot"]
    genes, x_um, y_um = _from_cells(tissue, knobs, random, programmes, shift)
    n_ambient = random.poisson(AMBIENT_SHARE * per_tile * tiles * (share + 0.1 * (1 - share)))
    mean = (TYPICAL_SHARE @ programmes[0]) * np.exp(shift)
    mean /= mean.sum()
    ambient_x, ambient_y = _somewhere(tissue, knobs, random, n_ambient)
    genes = np.concatenate([genes, _pick(random, mean, len(ambient_x))])
    x_um, y_um = np.concatenate([x_um, ambient_x]), np.concatenate([y_um, ambient_y])
    x_um, y_um, within = _to_grid(x_um, y_um, knobs)
    genes, x_um, y_um = genes[within], x_um[within], y_um[within]

    share = knobs["control_fraction"]
    n_control = random.poisson(len(genes) * share / (1 - share))
    share = knobs["low_quality_fraction"]
    n_bad = random.poisson((len(genes) + n_control) * share / (1 - share))
    n_bad_control = random.binomial(n_bad, 0.2)
    control = _controls(random, n_control, _CONTROL_SHARE_GOOD) + n_genes
    bad_control = _controls(random, n_bad_control, _CONTROL_SHARE_BAD) + n_genes
    # A bad read lies where transcripts are, and is called by chance as often as rightly.
    n_copy = (n_bad - n_bad_control) if len(genes) else 0
    copied = random.integers(0, max(len(genes), 1), n_copy)
    bad = np.where(random.random(n_copy) < 0.5, genes[copied], _pick(random, mean, n_copy))
    bad_x = x_um[copied] + random.normal(0, 2.0, n_copy)
    bad_y = y_um[copied] + random.normal(0, 2.0, n_copy)
    n_uniform = n_control + n_bad_control
    x_um = np.concatenate([x_um, random.random(n_uniform) * knobs["width_um"], bad_x])
    y_um = np.concatenate([y_um, random.random(n_uniform) * knobs["height_um"], bad_y])
    feature = np.concatenate([genes, control, bad_control, bad]).astype(np.int32)
    good = np.arange(len(feature)) < len(genes) + n_control
    # Quality in steps of 1/4, as the instrument writes it: 40 at the most, many of the good at 40.
    quality = np.where(
        good,
        np.where(random.random(len(good)) < 0.72, 40.0, random.integers(80, 160, len(good)) / 4),
        random.integers(0, 80, len(good)) / 4,
    )
    depth = np.clip(random.normal(17.0, 4.0, len(good)), 5.0, 32.0)
    x_um, y_um, within = _to_grid(x_um, y_um, knobs)
    return {
        "feature": feature[within],
        "x_um": x_um[within].astype(np.float32),
        "y_um": y_um[within].astype(np.float32),
        "z_um": (np.round(depth * 64) / 64)[within].astype(np.float32),
        "qv": quality[within].astype(np.float32),
    }


def _from_cells(tissue, knobs, random, programmes, shift):
    """Genes and places of the transcripts that cells make."""
    cells = tissue.cells
    # Cells a little outside lend the region's border what leaks from within them.
    near = np.flatnonzero(knob.in_region(cells["x_um"], cells["y_um"], knobs, beyond_um=25))
    if len(near) == 0:
        return np.empty(0, np.int32), np.empty(0), np.empty(0)
    area = (cells["major_um"] * cells["minor_um"])[near]
    kind = cells["kind"][near]
    usual = (kinds.MAJOR_UM * kinds.MINOR_UM)[kind]
    vigour = RNA_CONTENT[kind] * np.sqrt(area / usual) * random.gamma(5.0, 0.2, len(near))
    states = np.clip(cells["states"][near], -3, 3) * STATE_GAIN[kind]

    def rates(part):
        moved = np.exp(states[part] @ programmes[1] + shift)
        return vigour[part, None] * programmes[0][kind[part]] * moved

    chunks = [slice(i, i + CHUNK_CELLS) for i in range(0, len(near), CHUNK_CELLS)]
    totals = np.concatenate([rates(part).sum(axis=1) for part in chunks])
    inside = knob.in_region(cells["x_um"][near], cells["y_um"][near], knobs)
    share = inside_share(tissue, knobs)
    tissue_tiles = share * knobs["width_um"] * knobs["height_um"] / knob.SPOT_UM**2
    wanted = knobs["transcripts_per_spot"] * tissue_tiles * (1 - AMBIENT_SHARE)
    scale = wanted / max(totals[inside].sum(), 1e-9)
    owners, genes = [], []
    for part in chunks:
        counts = random.poisson(scale * rates(part))
        cell, gene = np.nonzero(counts)
        repeats = counts[cell, gene]
        owners.append(np.repeat(cell + part.start, repeats))
        genes.append(np.repeat(gene, repeats).astype(np.int32))
    owners, genes = np.concatenate(owners), np.concatenate(genes)
    return genes, *_place(tissue, near, owners, random)


def _place(tissue, near, owners, random):
    """A place in the nucleus, in the cytoplasm, or leaked from its cell, for each transcript."""
    nuclei, outlines = outline_cells(tissue, near)
    centres = np.stack([tissue.cells["x_um"], tissue.cells["y_um"]], axis=1)[near]
    n = len(owners)
    spokes = nuclei.shape[1]
    turn = random.random(n) * spokes
    first = turn.astype(np.int64)
    share = (turn - first)[:, None]

    def border(shapes):
        following = (first + 1) % spokes
        return (1 - share) * shapes[owners, first] + share * shapes[owners, following]

    centre = centres[owners]
    inner, outer = border(nuclei) - centre, border(outlines) - centre
    nuclear = random.random(n) < NUCLEAR_SHARE
    how_far = random.random(n)
    place = centre + np.where(
        nuclear[:, None],
        np.sqrt(how_far)[:, None] * inner,
        inner + np.sqrt(how_far)[:, None] * (outer - inner),
    )
    place += random.normal(0, LEAK_UM, (n, 2)) * (random.random(n) < LEAK_SHARE)[:, None]
    return place[:, 0], place[:, 1]


def _somewhere(tissue, knobs, random, n):
    """Uniform places in the region, a tenth as dense on glass as on tissue."""
    parts, left = [np.empty((2, 0))], n
    while left > 0:
        x_um, y_um = (
            random.random(2 * left + 16) * knobs[side] for side in ("width_um", "height_um")
        )
        inside = grid_value(tissue, "inside_um", x_um, y_um) > 0
        keep = np.flatnonzero(random.random(len(x_um)) < np.where(inside, 1.0, 0.1))[:left]
        parts.append(np.stack([x_um[keep], y_um[keep]]))
        left -= len(keep)
    return np.concatenate(parts, axis=1)


def _to_grid(x_um, y_um, knobs):
    """Places as multiples of 1/64 µm, and which of them lie in the region."""
    x_um, y_um = np.floor(x_um * 64) / 64, np.floor(y_um * 64) / 64
    return x_um, y_um, knob.in_region(x_um, y_um, knobs)


def _pick(random, shares, n):
    return np.searchsorted(np.cumsum(shares)[:-1], random.random(n)).astype(np.int32)


def _controls(random, n, shares):
    counts = np.array([count for *_, count in CONTROLS])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    group = _pick(random, shares, n)
    return (starts[group] + (random.random(n) * counts[group]).astype(int)).astype(np.int32)

"""Expression programmes over a gene panel, and the transcripts that they cause."""

import math
from collections.abc import Sequence

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv
from pairscape.simulation import knobs as knob
from pairscape.simulation import tissue as tissues
from pairscape.simulation.fields import STEP_UM
from pairscape.simulation.segmentation import outline_cells
from pairscape.simulation.tissue import KINDS, STATES, Tissue

MIN_QV = 20.0
"""Quality from which a transcript counts, as 10x Genomics recommends."""

# Genes whose type every histologist would name; those of a panel are used, the rest of the panel
# is dealt out by the seed.
MARKERS = {
    "tumour": (
        "EPCAM ERBB2 ESR1 FOXA1 GATA3 MLPH KRT8 KRT18 KRT19 CDH1 TACSTD2 CEACAM6 CEACAM5 FASN SCD "
        "CCND1 AGR3 TFAP2A ANKRD30A S100A14 TPD52 ABCC11 SERHL2 TRAF4 MYC EGFR MET SOX4 LCN2 "
        "CLDN4 MUC1 SOX9 OLFM4 NAPSA"
    ),
    "epithelium": (
        "KRT5 KRT14 KRT15 KRT17 KRT23 KRT6A KRT6B KRT7 KLF5 DSP DST DSC2 KIT ALDH1A3 ELF5 SFRP1 "
        "TP63 PIGR LTF SCGB2A1 SCGB1A1 MUC5B SFTPC FOXJ1 CFTR MUC12 CA1 CA2 FABP2 SLC26A3 OPRPN"
    ),
    "fibroblast": (
        "LUM POSTN FBLN1 DPT CCDC80 PDGFRA PDGFRB SFRP4 SFRP2 MMP2 CXCL12 LRRC15 COL1A1 COL1A2 "
        "COL3A1 DCN FAP CTHRC1 PI16 MFAP5 VCAN FN1 IGF1 CRISPLD2 THBS1 PTN"
    ),
    "muscle": "ACTA2 MYH11 MYLK ACTG2 TAGLN DES CNN1 SVIL FLNB OXTR AVPR1A SMOC2 DPYSL3",
    "lymphocyte": (
        "PTPRC CD3E CD3D CD3G CD4 CD8A CD8B TRAC TRBC1 TRBC2 IL7R CCL5 GZMA GZMK GZMB NKG7 CD2 "
        "CD247 CD27 CD69 CXCR4 CYTIP MS4A1 CD19 CD79A CD79B BANK1 MZB1 SELL LTB TIGIT CTLA4 FOXP3 "
        "CCR7 TCF7 KLRB1 SLAMF7 PRDM1 TNFRSF17 CD5 CD6 ITK LCK CD52 JCHAIN"
    ),
    "macrophage": (
        "CD68 CD163 CD14 C1QA C1QB C1QC LYZ AIF1 FCER1G FCGR3A MRC1 ITGAX ITGAM HAVCR2 CD86 CD83 "
        "LY86 APOC1 APOE FGL2 IGSF6 MNDA GPR183 CXCL16 MARCO TREM2 MS4A7 CYBB FCN1 SPP1"
    ),
    "endothelial": (
        "PECAM1 VWF KDR CD93 CLEC14A EGFL7 RAMP2 AQP1 MMRN2 ESM1 SOX17 SOX18 CLDN5 CD34 PLVAP "
        "EPAS1 CA4 RAPGEF3 NOSTRIN ANGPT2 CAVIN2 CAV1 ACKR1 GNG11 TCF4"
    ),
    "adipocyte": "ADIPOQ ADH1B LPL PPARG PLIN1 PLIN2 FABP4 LEP PDK4 TIMP4 AQP3 UCP1 CIDEC RBP4 LPXN",
}

STATE_MARKERS = {
    "grade": "MKI67 TOP2A CENPF PCLAF CDK1 UBE2C TYMS RRM2 STMN1 PBK CCNB2 HMGA1 MDM2 PCNA TUBB2B",
    "collagen": "POSTN COL1A1 COL1A2 COL3A1 FN1 CTHRC1 LRRC15 MMP2 FAP LUM ADAM12 ZEB1",
    "hypoxia": "NDUFA4L2 VEGFA SLC2A1 STC1 ANGPT2 PDK4 CA9 HIF1A ADM ERN1 SQLE EIF4EBP1 LDHB",
    "oedema": "DPT SFRP4 CXCL12 CCDC80 IGF1 PTGDS FBLN1 APOD DCN PI16 CCL2 CCL8 C1QA",
}

# How strongly each state moves each type (rows: KINDS, columns: STATES).
STATE_GAIN = np.array(
    [
        [1.0, 0.1, 1.0, 0.2],  # tumour
        [0.3, 0.2, 0.6, 0.2],  # epithelium
        [0.1, 1.0, 0.3, 1.0],  # fibroblast
        [0.0, 0.6, 0.3, 0.4],  # muscle
        [0.1, 0.2, 0.2, 0.6],  # lymphocyte
        [0.2, 0.5, 0.7, 0.6],  # macrophage
        [0.1, 0.4, 0.8, 0.7],  # endothelial
        [0.0, 0.3, 0.3, 0.4],  # adipocyte
    ]
)

RNA_CONTENT = np.array([1.7, 1.4, 1.0, 1.0, 0.55, 1.2, 0.9, 1.3])
"""Transcripts of a cell of each type, relative to a fibroblast."""

# About the share of each type's transcripts, which makes the panel's means come out on average.
_TYPICAL_SHARE = np.array([0.58, 0.05, 0.11, 0.05, 0.11, 0.06, 0.03, 0.01])

AMBIENT_SHARE = 0.06
"""Share of transcripts that lie anywhere in the tissue; a tenth of their density, on glass."""

NUCLEAR_SHARE = 0.42
LEAK_SHARE = 0.25
LEAK_UM = 7.0

# What isn't a gene: category, feature type in cell_feature_matrix.h5, name, and how many. The
# numbers are those of a 280-gene panel of the instrument.
CONTROLS = (
    ("negative_control_probe", "Negative Control Probe", "NegControlProbe_{:05d}", 20),
    ("genomic_control_probe", "Genomic Control", "Intergenic_Region_{}_part_1", 8),
    ("negative_control_codeword", "Negative Control Codeword", "NegControlCodeword_{:04d}", 41),
    ("unassigned_codeword", "Unassigned Codeword", "UnassignedCodeword_{:04d}", 180),
    ("deprecated_codeword", "Deprecated Codeword", "DeprecatedCodeword_{:04d}", 4),
)
# How often each of them is decoded, well and badly.
_CONTROL_SHARE_GOOD = np.array([0.45, 0.10, 0.15, 0.28, 0.02])
_CONTROL_SHARE_BAD = np.array([0.05, 0.02, 0.23, 0.68, 0.02])

CHUNK_CELLS = 2000


def read_panel_table(path) -> tuple[list[str], list[str], np.ndarray]:
    """Symbols, Ensembl ids and mean counts of a panel table."""
    rows = read_tsv(path, ("gene_symbol", "ensembl_id", "mean_count_per_spot"))
    if len(rows) < 2:
        raise InputError(path, "rows", str(len(rows)), "give a panel of at least two genes")
    symbols = [row["gene_symbol"] for row in rows]
    repeated = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})[:3]
    if repeated:
        raise InputError(
            path, "gene_symbol", f"{', '.join(repeated)} twice", "keep one row for each gene"
        )
    means = np.empty(len(rows))
    for i, row in enumerate(rows):
        try:
            means[i] = float(row["mean_count_per_spot"])
        except ValueError:
            means[i] = np.nan
        if not np.isfinite(means[i]) or means[i] < 0:
            raise InputError(
                path,
                f"mean_count_per_spot of {row['gene_symbol']}",
                repr(row["mean_count_per_spot"]),
                "give a number of 0 or more",
            )
    if means.sum() == 0:
        raise InputError(path, "mean_count_per_spot", "only zeros", "give one gene a mean above 0")
    ids = [row["ensembl_id"] or row["gene_symbol"] for row in rows]
    return symbols, ids, means


def gene_programmes(
    symbols: Sequence[str], means: np.ndarray, seeds: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Expression of each type (``KINDS``, genes), rows adding to 1, and the states' effect.

    The second array (``STATES``, genes) is the change of log expression by one standard deviation
    of a state in a type of gain 1. Both depend on the run's seed and the gene's name alone, so
    they are the same for all samples and in every panel.
    """
    fold = np.empty((len(KINDS), len(symbols)))
    effect = np.empty((len(STATES), len(symbols)))
    marks = [set(MARKERS[kind].split()) for kind in KINDS]
    state_marks = [set(STATE_MARKERS[state].split()) for state in STATES]
    for g, symbol in enumerate(symbols):
        random = knob.rng(seeds["programmes"], symbol)
        fold[:, g] = np.exp(random.normal(0, 0.35, len(KINDS)))
        lucky, draw = random.choice(len(KINDS), 2, replace=False), random.random()
        strength = np.exp(random.normal(np.log(7.0), 0.4, 2))
        effect[:, g] = random.normal(0, 0.5, len(STATES)) * (random.random(len(STATES)) < 0.35)
        named = [i for i, mark in enumerate(marks) if symbol in mark]
        if named:
            fold[:, g] *= 0.35
            fold[named, g] = 8.0 * np.exp(random.normal(0, 0.3))
        elif draw < 0.75:
            fold[lucky[0], g] *= strength[0]
            if draw < 0.2:
                fold[lucky[1], g] *= strength[1]
        for s, mark in enumerate(state_marks):
            if symbol in mark:
                effect[s, g] = 0.9
    expression = means * fold / (_TYPICAL_SHARE @ fold)
    return expression / expression.sum(axis=1, keepdims=True), effect


def donor_shift(symbols: Sequence[str], knobs: dict, seeds: dict) -> np.ndarray:
    """A donor's change of log expression for each gene."""
    shift = [knob.rng(seeds["donor"], "expression", symbol).normal(0, 0.7) for symbol in symbols]
    return knobs["batch_effect"] * np.array(shift)


def feature_table(symbols: Sequence[str], ids: Sequence[str], seeds: dict) -> dict:
    """All that the instrument decodes, genes first, as columns.

    Columns: name, id, category (of the codeword), type (of the feature), is_gene, codeword.
    """
    random = knob.rng(seeds["programmes"], "codewords")
    n = len(symbols) + sum(count for *_, count in CONTROLS)
    codewords = random.permutation(n).astype(np.int32)
    names, categories = list(symbols), ["predesigned_gene"] * len(symbols)
    types = ["Gene Expression"] * len(symbols)
    for category, kind, pattern, count in CONTROLS:
        for number in range(count):
            # Codewords without a target are named by their number.
            named = codewords[len(names)] if "codeword" in category else number + 1
            names.append(pattern.format(named))
            categories.append(category)
            types.append(kind)
    return {
        "name": np.array(names, object),
        "id": np.array(list(ids) + names[len(symbols) :], object),
        "category": np.array(categories, object),
        "type": np.array(types, object),
        "is_gene": np.arange(n) < len(symbols),
        "codeword": codewords,
    }


def draw_transcripts(
    tissue: Tissue,
    knobs: dict,
    seeds: dict,
    programmes: tuple[np.ndarray, np.ndarray],
    shift: np.ndarray,
) -> dict:
    """All molecules of a sample, in no order, as columns.

    Columns: feature (index into ``feature_table``), x_um, y_um, z_um, qv (all float32). Places are
    multiples of 1/64 µm, as the instrument writes them, within the region.
    """
    random = knob.rng(seeds["molecules"], "transcripts")
    n_genes = len(shift)
    genes, x_um, y_um = _from_cells(tissue, knobs, random, programmes, shift)
    n_ambient = random.poisson(_ambient(tissue, knobs))
    mean = (_TYPICAL_SHARE @ programmes[0]) * np.exp(shift)
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


def tile_grid(knobs: dict) -> tuple[int, int]:
    """Rows and columns of the tiles of ``SPOT_UM`` over the region, those cut at its border too."""
    rows, columns = (math.ceil(knobs[side] / knob.SPOT_UM) for side in ("height_um", "width_um"))
    return rows, columns


def count_tiles(molecules: dict, is_gene: np.ndarray, knobs: dict):
    """Counts of good gene transcripts per tile, (tiles, genes) int32 in CSR, tiles row by row."""
    from scipy import sparse

    rows, columns = tile_grid(knobs)
    genes = int(is_gene.sum())
    good = (molecules["qv"] >= MIN_QV) & is_gene[molecules["feature"]]
    # Places as stored, in float64: multiples of 1/64 over a whole number don't round across a line.
    row, column = (
        np.floor(molecules[axis][good].astype(np.float64) / knob.SPOT_UM).astype(np.int64)
        for axis in ("y_um", "x_um")
    )
    tile = row * columns + column
    keys, found = np.unique(tile * genes + molecules["feature"][good], return_counts=True)
    return sparse.csr_matrix(
        (found.astype(np.int32), (keys // genes, keys % genes)), shape=(rows * columns, genes)
    )


def cells_per_tile(x_um, y_um, kind, knobs: dict) -> np.ndarray:
    """Cells of each of ``KINDS`` by their centre's tile, (tiles, kinds); all lie in the region."""
    rows, columns = tile_grid(knobs)
    home = (y_um // knob.SPOT_UM).astype(int) * columns + (x_um // knob.SPOT_UM).astype(int)
    cells = np.zeros((rows * columns, len(KINDS)), int)
    np.add.at(cells, (home, kind), 1)
    return cells


def _from_cells(tissue, knobs, random, programmes, shift):
    cells = tissue.cells
    # Cells a little outside lend the region's border what leaks from within them.
    near = np.flatnonzero(
        (cells["x_um"] > -25) & (cells["x_um"] < knobs["width_um"] + 25)
        & (cells["y_um"] > -25) & (cells["y_um"] < knobs["height_um"] + 25)
    )  # fmt: skip
    if len(near) == 0:
        return np.empty(0, np.int32), np.empty(0), np.empty(0)
    area = (cells["major_um"] * cells["minor_um"])[near]
    kind = cells["kind"][near]
    usual = (tissues.MAJOR_UM * tissues.MINOR_UM)[kind]
    vigour = RNA_CONTENT[kind] * np.sqrt(area / usual) * random.gamma(5.0, 0.2, len(near))
    states = np.clip(cells["states"][near], -3, 3) * STATE_GAIN[kind]

    def rates(part):
        moved = np.exp(states[part] @ programmes[1] + shift)
        return vigour[part, None] * programmes[0][kind[part]] * moved

    chunks = [slice(i, i + CHUNK_CELLS) for i in range(0, len(near), CHUNK_CELLS)]
    totals = np.concatenate([rates(part).sum(axis=1) for part in chunks])
    inside = (
        (cells["x_um"][near] >= 0) & (cells["x_um"][near] < knobs["width_um"])
        & (cells["y_um"][near] >= 0) & (cells["y_um"][near] < knobs["height_um"])
    )  # fmt: skip
    wanted = knobs["transcripts_per_spot"] * _tissue_tiles(tissue, knobs) * (1 - AMBIENT_SHARE)
    scale = wanted / max(totals[inside].sum(), 1e-9)
    owners, genes = [], []
    for part in chunks:
        counts = random.poisson(scale * rates(part))
        cell, gene = np.nonzero(counts)
        repeats = counts[cell, gene]
        owners.append(np.repeat(cell + part.start, repeats))
        genes.append(np.repeat(gene, repeats).astype(np.int32))
    owners, genes = np.concatenate(owners), np.concatenate(genes)
    x_um, y_um = _place(tissue, near, owners, random)
    return genes, x_um, y_um


def _place(tissue, near, owners, random):
    """A place in the nucleus, in the cytoplasm, or leaked from its cell, for each transcript."""
    nuclei, outlines = outline_cells(tissue, near)
    centres = np.stack([tissue.cells["x_um"], tissue.cells["y_um"]], axis=1)[near]
    n = len(owners)
    spokes = nuclei.shape[1]
    at = random.random(n) * spokes
    first = at.astype(np.int64)
    share = (at - first)[:, None]

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


def _tissue_tiles(tissue, knobs) -> float:
    """Area of tissue within the region, in tiles of 55 µm."""
    share = _inside_share(tissue, knobs)
    return share * knobs["width_um"] * knobs["height_um"] / knob.SPOT_UM**2


def _inside_share(tissue, knobs) -> float:
    y_um, x_um = (
        np.arange(n) * STEP_UM + tissue.origin_um for n in tissue.grids["inside_um"].shape
    )
    region = tissue.grids["inside_um"][
        np.ix_(
            (y_um >= 0) & (y_um <= knobs["height_um"]), (x_um >= 0) & (x_um <= knobs["width_um"])
        )
    ]
    return float((region > 0).mean())


def _ambient(tissue, knobs) -> float:
    """Expected number of ambient transcripts, on tissue and on glass."""
    share = _inside_share(tissue, knobs)
    tiles = knobs["width_um"] * knobs["height_um"] / knob.SPOT_UM**2
    return AMBIENT_SHARE * knobs["transcripts_per_spot"] * tiles * (share + 0.1 * (1 - share))


def _somewhere(tissue, knobs, random, n):
    """Uniform places in the region, a tenth as dense on glass as on tissue."""
    found_x, found_y, left = [], [], n
    while left > 0:
        x_um = random.random(2 * left + 16) * knobs["width_um"]
        y_um = random.random(2 * left + 16) * knobs["height_um"]
        inside = tissues.grid_value(tissue, "inside_um", x_um, y_um) > 0
        keep = np.flatnonzero(random.random(len(x_um)) < np.where(inside, 1.0, 0.1))[:left]
        found_x.append(x_um[keep])
        found_y.append(y_um[keep])
        left -= len(keep)
    return (
        np.concatenate([*found_x, np.empty(0)]),
        np.concatenate([*found_y, np.empty(0)]),
    )


def _to_grid(x_um, y_um, knobs):
    """Places as multiples of 1/64 µm, and which of them lie in the region."""
    x_um, y_um = np.floor(x_um * 64) / 64, np.floor(y_um * 64) / 64
    within = (x_um >= 0) & (x_um < knobs["width_um"]) & (y_um >= 0) & (y_um < knobs["height_um"])
    return x_um, y_um, within


def _pick(random, shares, n):
    return np.searchsorted(np.cumsum(shares)[:-1], random.random(n)).astype(np.int32)


def _controls(random, n, shares):
    counts = np.array([count for *_, count in CONTROLS])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    group = _pick(random, shares, n)
    return (starts[group] + (random.random(n) * counts[group]).astype(int)).astype(np.int32)

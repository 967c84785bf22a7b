"""Expression programmes over a gene panel: what each cell type and state makes of each gene."""

from collections.abc import Sequence

import numpy as np

from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import KINDS, STATES

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
TYPICAL_SHARE = np.array([0.58, 0.05, 0.11, 0.05, 0.11, 0.06, 0.03, 0.01])


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
    expression = means * fold / (TYPICAL_SHARE @ fold)
    return expression / expression.sum(axis=1, keepdims=True), effect


def donor_shift(symbols: Sequence[str], knobs: dict, seeds: dict) -> np.ndarray:
    """A donor's change of log expression for each gene."""
    shift = [knob.rng(seeds["donor"], "expression", symbol).normal(0, 0.7) for symbol in symbols]
    return knobs["batch_effect"] * np.array(shift)

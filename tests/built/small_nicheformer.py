"""A small Nicheformer and its files, as they are published, for several tests."""

from pathlib import Path

import numpy as np
import torch

from pairscape.encoders import specs
from pairscape.encoders.architectures import nicheformer

CONFIG = Path(__file__).resolve().parents[2] / "config" / "encoders"
SPEC = specs.read_encoder(CONFIG, "gene", "nicheformer")
KNOWN = 45  # genes of the small vocabulary: the panel's without the first five, and others
SMALL = {
    **SPEC,
    "arguments": {
        **SPEC["arguments"],
        **{"dim": 16, "heads": 2, "layers": 2, "feed_forward": 24, "context_length": 30},
        "n_tokens": KNOWN + 30,
    },
    "width": 16,
    "parameters": 5680,
    "weights": {**SPEC["weights"], "file": "w.ckpt", "layout": "nicheformer"},
}


def write_files(folder, entries=None, vocabulary=None, means=None):
    """A small encoder's files as published; returns the weights' path and its network."""
    import anndata
    import pandas as pd

    torch.manual_seed(1)
    network = nicheformer.Network(SMALL["arguments"])
    state = {**network.state_dict(), "pos": torch.arange(30), "cls_head.bias": torch.zeros(3)}
    state["encoder_layer.linear1.weight"] = torch.zeros(24, 16)
    if entries is not None:
        entries(state)
    torch.save({"state_dict": state, "hyper_parameters": {"nlayers": 2}}, folder / "w.ckpt")
    if vocabulary is None:
        vocabulary = [f"ENSG{i:011d}" for i in range(5, 5 + KNOWN)][::-1]
    if means is None:
        means = np.arange(KNOWN) % 7.0
        means[:4] = np.nan
    reference = anndata.AnnData(
        np.zeros((1, len(vocabulary)), np.float32), var=pd.DataFrame(index=vocabulary)
    )
    reference.write_h5ad(folder / "model.h5ad")
    np.save(folder / "xenium_mean_script.npy", means)
    return folder / "w.ckpt", network.eval()

"""Fit DRVI to the train split of a dataset: quality of spots, the fit, its history.

Settings are those of HESCAPE's ``experiments/drvi_pretrain`` but for what an encoder's file names
otherwise. drvi, scvi and AnnData are needed here and nowhere after.
"""

import logging
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from pairscape.core import devices, tsv
from pairscape.core.errors import InputError

log = logging.getLogger("pairscape")

MITOCHONDRIAL = "MT-"
TOP_GENES = 20
HISTORY_COLUMNS = ("epoch", "elbo", "reconstruction", "kl", "kl_weight")
_HISTORY_OF = {
    "elbo": "elbo_train",
    "reconstruction": "reconstruction_loss_train",
    "kl": "kl_local_train",
}
# Reasons to leave a spot out, in the order in which they are counted.
REASONS = ("no_transcripts", "transcripts", "genes", "top_20", "mitochondrial")
_ARGUMENTS = {
    "n_latent",
    "encoder_dims",
    "decoder_dims",
    "dropout",
    "batch_size",
    "learning_rate",
    "epochs",
    "kl_warmup_epochs",
    "fit_on",
    "quality",
}
_QUALITY = {"by", "zero_mad", "max_mad", "max_mitochondrial_percent"}
# A dimension whose mean spreads less than this over the spots carries nothing: the prior's is 1.
_USED_SPREAD = 0.1


def check_arguments(spec: Mapping) -> None:
    """Refuse arguments of a fit that are missing, unknown or not allowed."""
    arguments = spec["arguments"]
    quality = arguments.get("quality", {})
    parts = [("arguments", arguments, _ARGUMENTS), ("arguments.quality", quality, _QUALITY)]
    for place, found, wanted in parts:
        for key in sorted(wanted ^ set(found)):
            fault = "nothing" if key in wanted else "an unknown key"
            remedy = f"{'add it' if key in wanted else 'leave it out'}; drvi.yaml shows all"
            raise InputError(spec["title"], f"{place}.{key}", fault, remedy)
    choices = {
        "arguments.fit_on": (arguments["fit_on"], ("train", "published")),
        "arguments.quality.by": (quality["by"], ("sample", "dataset")),
        "arguments.quality.zero_mad": (quality["zero_mad"], ("skip", "drop")),
    }
    for place, (value, allowed) in choices.items():
        if value not in allowed:
            raise InputError(spec["title"], place, repr(value), f"allowed: {', '.join(allowed)}")


def measure_spots(counts, rows: np.ndarray, symbols: Sequence[str]) -> dict[str, np.ndarray]:
    """What the quality of spots is judged by, in bounded memory.

    Parameters
    ----------
    counts
        ``expression_counts.Counts``.
    rows
        Row numbers.
    symbols
        The genes.

    Returns
    -------
    Arrays (len(rows),): ``transcripts`` and ``genes`` (log1p of the numbers), ``top_20`` and
    ``mitochondrial`` (percent of the spot's transcripts in its 20 strongest genes, in genes named
    MT-…), as scanpy's ``calculate_qc_metrics`` has them. NaN percents where there are no transcripts.
    """
    mitochondrial = np.array([symbol.upper().startswith(MITOCHONDRIAL) for symbol in symbols])
    top = min(TOP_GENES, len(symbols))
    parts = []
    for block in counts.blocks(rows):
        total = block.sum(1, dtype=np.int64)
        strongest = np.partition(block, len(symbols) - top, axis=1)[:, len(symbols) - top :]
        with np.errstate(invalid="ignore"):
            parts.append(
                (
                    np.log1p(total),
                    np.log1p((block > 0).sum(1)),
                    100 * strongest.sum(1, dtype=np.int64) / total,
                    100 * block[:, mitochondrial].sum(1, dtype=np.int64) / total,
                )
            )
    columns = zip(*parts, strict=True) if parts else ([np.empty(0)],) * 4
    return {
        name: np.concatenate(list(column))
        for name, column in zip(REASONS[1:], columns, strict=True)
    }


def judge_spots(
    measures: Mapping[str, np.ndarray], samples: np.ndarray, quality: Mapping
) -> tuple[np.ndarray, dict[str, int]]:
    """Which spots are fitted to.

    Parameters
    ----------
    measures
        See ``measure_spots``.
    samples
        (N,) each spot's sample.
    quality
        ``max_mad``: how many median absolute deviations (unscaled) each measure may be off its
        median; ``max_mitochondrial_percent``; ``by``: whether medians are those of the spot's
        ``sample`` or of the ``dataset``; ``zero_mad``: where more than half of the spots are alike,
        so that the deviation is 0, ``skip`` the measure or ``drop`` all others.

    Returns
    -------
    (N,) bool, and how many spots were left out for each of ``REASONS``: each counts once, for the
    first that holds.
    """
    found = ~np.isfinite(measures["top_20"])
    reason = np.where(found, 0, -1)
    groups = [np.ones(len(samples), bool)]
    if quality["by"] == "sample":
        groups = [samples == name for name in np.unique(samples)]
    for number, name in enumerate(REASONS[1:], start=1):
        values, outside = measures[name], np.zeros(len(samples), bool)
        for group in groups:
            group = group & ~found
            if not group.any():
                continue
            median = np.median(values[group])
            deviation = np.median(np.abs(values[group] - median))
            if deviation > 0 or quality["zero_mad"] == "drop":
                limit = quality["max_mad"][name] * deviation
                outside[group] = np.abs(values[group] - median) > limit
        if name == "mitochondrial":
            outside |= ~found & (values > quality["max_mitochondrial_percent"])
        reason[outside & (reason < 0)] = number
    left_out = {name: int((reason == number).sum()) for number, name in enumerate(REASONS)}
    return reason < 0, left_out


def fit_length(spots: int, arguments: Mapping) -> tuple[int, int]:
    """Epochs, and those over which the weight of the KL term rises.

    HESCAPE's rule where the encoder's file gives no number: 8,000,000 / spots, at most 400; a rise
    over half of them where they are fewer than 400, and over 400 (scvi's default) otherwise.
    """
    epochs = arguments["epochs"]
    if epochs is None:
        epochs = max(1, min(round(20000 / spots * 400), 400))
    warmup = arguments["kl_warmup_epochs"]
    if warmup is None:
        warmup = 400 if epochs >= 400 else max(1, int(epochs / 2))
    return epochs, warmup


def read_sparse(counts, rows: np.ndarray):
    """Counts of rows as a CSR matrix of float32, block by block."""
    from scipy import sparse

    return sparse.vstack(
        [sparse.csr_matrix(block.astype(np.float32)) for block in counts.blocks(rows)], format="csr"
    )


def fit(
    counts, samples: np.ndarray, arguments: Mapping, seed: int, threads: int, title: str
) -> tuple[dict, list[dict], dict]:
    """Fit DRVI; the same input, seed and threads give the same numbers on a CPU.

    Parameters
    ----------
    counts
        (N, genes) CSR, float32, raw.
    samples
        (N,) the sample of each spot: the covariate that the decoder, and it alone, is told.
    arguments
        The encoder's.
    seed, threads
        Of the fit.
    title
        Of the encoder, for messages.

    Returns
    -------
    The encoder's entries by the names of ``architectures.drvi.network``; the history, one mapping
    of ``HISTORY_COLUMNS`` per epoch; facts: ``epochs``, ``kl_warmup_epochs``, ``device``,
    ``dimensions_used``.
    """
    if counts.shape[0] < 3:
        raise InputError(
            title, "train split", f"{counts.shape[0]} spots of quality", "give it more samples"
        )

    import torch

    from pairscape.encoders.architectures import drvi

    epochs, warmup = fit_length(counts.shape[0], arguments)
    model = _model(counts, samples, arguments, seed, threads)
    on_gpu = devices.has_gpu()
    fault = f"{arguments['learning_rate']}, with which the fit diverged"
    diverged = InputError(title, "arguments.learning_rate", fault, "lower it")
    try:
        model.train(
            max_epochs=epochs,
            accelerator="gpu" if on_gpu else "cpu",
            devices=1,
            train_size=1.0,
            early_stopping=False,
            batch_size=arguments["batch_size"],
            plan_kwargs={"lr": arguments["learning_rate"], "n_epochs_kl_warmup": warmup},
            deterministic="warn" if on_gpu else None,  # a CPU is so by itself
            callbacks=[_progress(epochs)],
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
        )
    except ValueError as error:
        if "found invalid values" not in str(error):  # torch.distributions of a NaN
            raise
        raise diverged from None
    history = [
        {"epoch": epoch + 1}
        | {key: float(model.history[of].iloc[epoch, 0]) for key, of in _HISTORY_OF.items()}
        # scvi keeps the weight of some steps only.
        | {"kl_weight": min(1.0, epoch / warmup)}
        for epoch in range(epochs)
    ]
    entries = drvi.entries_of_module(model.module.state_dict(), len(arguments["encoder_dims"]))
    if not all(map(math.isfinite, history[-1].values())) or not all(
        bool(torch.isfinite(value).all()) for value in entries.values()
    ):
        raise diverged
    facts = {
        "epochs": epochs,
        "kl_warmup_epochs": warmup,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "dimensions_used": _check_encoder(model, counts, entries, arguments),
    }
    return entries, history, facts


def _model(counts, samples: np.ndarray, arguments: Mapping, seed: int, threads: int):
    """An unfitted DRVI on the counts, its libraries seeded and quiet."""
    import anndata
    import pandas as pd
    import scvi
    import torch
    from drvi.model import DRVI

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("drvi.scvi_tools_based").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    scvi.settings.seed = seed
    names = pd.DataFrame({"sample": samples}, index=np.arange(len(samples)).astype(str))
    data = anndata.AnnData(counts, obs=names)
    DRVI.setup_anndata(data, categorical_covariate_keys=["sample"], is_count_data=True)
    return DRVI(
        data,
        n_latent=arguments["n_latent"],
        encoder_dims=arguments["encoder_dims"],
        decoder_dims=arguments["decoder_dims"],
        encoder_dropout_rate=arguments["dropout"],
    )


def write_history(path, history: Sequence[Mapping]) -> None:
    """Write the parts of the loss, one row per epoch, as CSV."""
    tsv.write_numbers(path, history, HISTORY_COLUMNS, delimiter=",")


def plot_history(path, history: Sequence[Mapping], title: str) -> None:
    """Draw the parts of the loss over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["elbo"] for row in history], color="#D55E00", label="negative ELBO")
    left.plot(
        epochs, [row["reconstruction"] for row in history], color="#0072B2", label="reconstruction"
    )
    left.set(xlabel="epoch", ylabel="nats per spot")
    left.legend(frameon=False)
    right.plot(epochs, [row["kl"] for row in history], color="#009E73", label="KL, nats per spot")
    right.set(xlabel="epoch", ylabel="KL (nats per spot)")
    weight = right.twinx()
    weight.plot(epochs, [row["kl_weight"] for row in history], color="0.5", ls="--")
    weight.set(ylabel="weight of the KL term (dashed)", ylim=(0, 1.05))
    figure.suptitle(title)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _check_encoder(model, counts, entries: Mapping, arguments: Mapping) -> int:
    """Hold the plain encoder against drvi's own latent, and count the dimensions that are used."""
    import torch

    from pairscape.encoders.architectures import drvi

    network = drvi.network(counts.shape[1], arguments)
    network.load_state_dict(dict(entries), strict=True)
    network.eval()
    every = np.linspace(0, counts.shape[0] - 1, min(counts.shape[0], 4096)).astype(int)
    theirs = model.get_latent_representation(indices=every)
    with torch.inference_mode():
        ours = network(torch.log1p(torch.from_numpy(counts[every].toarray()))).numpy()
    off = float(np.abs(ours - theirs).max())
    if off > 1e-3 * max(1.0, float(np.abs(theirs).max())):
        raise RuntimeError(f"the exported encoder is off drvi's latent by {off}")
    return int((ours.std(0) > _USED_SPREAD).sum())


def _progress(epochs: int):
    """A line per tenth of the fit, for the log."""
    from lightning.pytorch.callbacks import Callback

    class Progress(Callback):
        def on_train_epoch_end(self, trainer, module):
            done = trainer.current_epoch + 1
            if done % math.ceil(epochs / 10) == 0:
                log.debug("epoch %d of %d", done, epochs)

    return Progress()

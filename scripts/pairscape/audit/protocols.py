"""The two protocols: ``corrected``, the default, and ``published``, which repeats HESCAPE's quirks.

Each quirk that changes results is a flag. A flag sets training options, puts a variant in the place of
an encoder, or concerns a dataset, whose own keys say how it was made; on is as published. An
experiment's ``protocol`` turns all flags on or off and its ``flags`` single ones. H numbers are those
of docs/published-benchmark.md.

Light: the workflow calls it while Snakemake parses.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pairscape.core.errors import InputError, allowed_words
from pairscape.encoders import specs

CORRECTED, PUBLISHED = "corrected", "published"
PROTOCOLS = (CORRECTED, PUBLISHED)


class Flag(NamedTuple):
    """A quirk of the published code: its H numbers, and what the code does.

    ``training``: training options and their published values; ``encoders``: by kind, encoders and the
    variants that repeat what was published; ``dataset``: the key of a dataset that it is about, and
    the configuration has a dataset for either state.
    """

    findings: str
    meaning: str
    training: Mapping = {}
    encoders: Mapping = {}
    dataset: str = ""


FLAGS = {
    "leaking_donors": Flag(
        "H13",
        "donors of the test split stand in the train split too, as in the published lung split",
        dataset="split",
    ),
    "spots_in_he_pixels": Flag(
        "data",
        "spots lie on a grid in H&E pixels from the least transcript on; no transcript is left out",
        dataset="spots",
    ),
    "native_patches": Flag(
        "data",
        "patches are 512 px as scanned, so that their field of view differs between slides",
        dataset="patches",
    ),
    "in_batch_recall": Flag(
        "H1",
        "recall is taken within each device's batch of 64; both galleries stand in every table",
    ),
    "unnormalised_embeddings": Flag(
        "H2",
        "loss and recall use embeddings that aren't of unit length",
        training={"unit_length": False},
    ),
    "untrained_ctranspath": Flag(
        "H3",
        "CTransPath's weights aren't loaded: the encoder is random",
        encoders={"image": {"ctranspath": "ctranspath_published"}},
    ),
    "last_checkpoint": Flag(
        "H4",
        "the last weights are tested, not the best by validation",
        training={"select": "last"},
    ),
    "trunks_in_training_mode": Flag(
        "H5",
        "frozen encoders stay in training mode: dropout, drop-path and batch statistics are active",
        training={"frozen_trunks": "train"},
    ),
    "sharpness_after_normalisation": Flag(
        "H6",
        "patches are sharpened after normalisation, which cuts off what isn't from 0 to 1",
        training={"sharpen": "after_normalisation"},
    ),
    "augmentation_per_batch": Flag(
        "H7",
        "one random crop, flip and blur for all patches of a batch",
        training={"augmentation_draws": "per_batch"},
    ),
    "random_evaluation_crop": Flag(
        "H8",
        "validation and test patches are cropped at random too, to the whole or the half",
        training={"evaluation_crop": "random"},
    ),
    "drvi_fitted_on_test": Flag(
        "H10, H11",
        "DRVI is fitted on samples of the validation and test splits too",
        encoders={"gene": {"drvi": "drvi_published"}},
    ),
    "nicheformer_without_context": Flag(
        "H14, H15, H16",
        "Nicheformer gets no context, tokens for genes without counts, and a mean over its pads",
        encoders={"gene": {"nicheformer": "nicheformer_published"}},
    ),
    "scfoundation_key_and_pooling": Flag(
        "H18, H19, H20",
        "scFoundation's wrong weights and depth tokens, and a maximum over pads and depth tokens",
        encoders={"gene": {"scfoundation": "scfoundation_published"}},
    ),
    "batch_median": Flag(
        "H21",
        "counts are scaled by the median of the batch that a spot happens to be in",
        encoders={"gene": {"mlp": "mlp_published"}},
    ),
    "adam_betas": Flag(
        "H22",
        "betas 0.9 and 0.999, where the paper says 0.9 and 0.95",
        training={"betas": [0.9, 0.999]},
    ),
    "warmup_782": Flag(
        "H22",
        "782 steps of warm-up, where the paper says 780",
        training={"warmup_steps": 782},
    ),
    "conch_trunk": Flag(
        "H25",
        "CONCH's class token at 480 px in place of its pooled output at 448 px",
        encoders={"image": {"conch": "conch_published"}},
    ),
    "transformer_across_batch": Flag(
        "H29",
        "the transformer head attends over the images of a batch, not over the tokens of an image",
        training={"transformer_attends": "batch"},
    ),
}

# The training options' defaults by which flags are idle; a test holds them against the schema.
DECIDING = {"augmentation": "auto", "image_tuning": "lora", "image_projection": "mlp"}
# Those that a run itself shows; the others are shown by its dataset, or by the gallery.
RUN_FLAGS = {name: flag for name, flag in FLAGS.items() if flag.training or flag.encoders}


def resolve_experiment(name: str, plan: Mapping, default: str, source) -> dict:
    """Apply an experiment's protocol and flags to its training options and encoders.

    ``default`` is the protocol where the experiment names none, ``source`` the configuration. Returns
    the experiment with ``protocol`` and all ``flags``, true or false. What ``training`` says itself
    isn't changed.
    """
    place = f"experiments.{name}"
    set_flags = plan.get("flags") or {}
    protocol = plan.get("protocol") or default
    training = plan.get("training") or {}
    if (
        not all(isinstance(part, Mapping) for part in (set_flags, training))
        or protocol not in PROTOCOLS
    ):
        return dict(plan)  # the schema refuses it
    check_flags(set_flags, f"{place}.flags", source)
    flags = {flag: protocol == PUBLISHED for flag in RUN_FLAGS} | dict(set_flags)
    settings = [(name, *item) for name, flag in RUN_FLAGS.items() for item in flag.training.items()]
    for flag, option, value in settings:
        if option not in training:
            continue
        flags[flag] = training[option] == value
        if set_flags.get(flag, flags[flag]) != flags[flag]:
            beside = f"flags.{flag}: {str(set_flags[flag]).lower()}"
            both = f"{training[option]!r}, beside {beside}, and the flag means {value!r}"
            remedy = "drop one of the two"
            raise InputError(source, f"{place}.training.{option}", both, remedy)
    options = {option: value for flag, option, value in settings if flags[flag]}
    changed = {
        f"{kind}_encoders": [
            encoder_by(flags, kind, encoder) for encoder in plan.get(f"{kind}_encoders") or []
        ]
        for kind in ("image", "gene")
    }
    return {
        **plan,
        **changed,
        "protocol": protocol,
        "flags": flags,
        "training": {**options, **training},
    }


def check_flags(flags: Iterable[str], place: str, source, allowed: Iterable[str] | None = None):
    """Refuse flags that there aren't; ``allowed`` are those of runs where nothing is said."""
    allowed = RUN_FLAGS if allowed is None else allowed
    for flag in flags:
        if flag in allowed:
            continue
        remedy = allowed_words(flag, allowed)
        if flag in FLAGS:
            hint = "choose a dataset that has it" if FLAGS[flag].dataset else "leave it out"
            remedy = f"{hint}, allowed: {', '.join(allowed)}"
        raise InputError(source, place, repr(flag), remedy)


def encoder_by(flags: Mapping[str, bool], kind: str, encoder: str) -> str:
    """The encoder that an experiment with these flags uses where it names ``encoder``."""
    for flag, on in flags.items():
        if on:
            encoder = FLAGS[flag].encoders.get(kind, {}).get(encoder, encoder)
    return encoder


def variants_in(flags: Mapping[str, bool]) -> dict[str, str]:
    """The encoders that flags have put in the place of others: what they stand for, by their names."""
    return {
        variant: encoder
        for flag, on in flags.items()
        if on
        for names in FLAGS[flag].encoders.values()
        for encoder, variant in names.items()
    }


# ----------------------------------------------------------------------------------------- the audit


def audit_rows(name: str, audit: Mapping) -> list[dict]:
    """The rows of an audit: from each protocol, itself and then each flag changed by itself.

    ``audit`` is as the configuration has it, its defaults filled in. A row has ``start`` (a protocol),
    ``flag`` (empty for the protocol itself), ``findings``, ``meaning``, ``experiment``, ``dataset``,
    ``asked`` (encoders by kind, before a protocol changes them), and ``why_not``: why the flag can't
    make a difference here, and then there is no experiment.
    """
    wanted = [flag for flag in FLAGS if audit["flags"] is None or flag in audit["flags"]]
    rows = []
    for start in PROTOCOLS:
        for flag in ("", *wanted):
            row = {"start": start, "flag": flag, "findings": "", "meaning": "", "dataset": ""}
            row |= {"experiment": "", "asked": {}, "why_not": ""}
            if flag:
                row |= {"findings": FLAGS[flag].findings, "meaning": FLAGS[flag].meaning}
                row["why_not"] = idle_reason(flag, audit, start)
            if not row["why_not"]:
                row["dataset"] = audit["data_flags"].get(flag, {}).get(start, audit[start])
                row["experiment"] = audit_experiment(name, start, flag)
                row["asked"] = _asked(flag, audit)
            rows.append(row)
    return rows


def audit_experiment(name: str, start: str, flag: str = "") -> str:
    """The experiment that stands for a row of an audit."""
    return f"audit-{name}_{start}" + (f"_{flag}" if flag else "")


def audit_experiments(name: str, audit: Mapping) -> dict[str, dict]:
    """The experiments of an audit, as a configuration would have them."""
    idle = {
        start: {
            name: False
            for name, flag in RUN_FLAGS.items()
            if idle_reason(name, audit, start) and not set(flag.training) & set(audit["training"])
        }
        for start in PROTOCOLS
    }
    experiments = {}
    for row in audit_rows(name, audit):
        if row["why_not"]:
            continue
        changed = {row["flag"]: row["start"] == CORRECTED} if row["flag"] in RUN_FLAGS else {}
        experiments[row["experiment"]] = {
            "datasets": [row["dataset"]],
            **{f"{kind}_encoders": names for kind, names in row["asked"].items()},
            "seeds": audit["seeds"],
            "training": audit["training"],
            "on_request": True,
            "retrieval_only": True,
            "protocol": row["start"],
            "flags": idle[row["start"]] | changed,
        }
    return experiments


def _asked(flag: str, audit: Mapping) -> dict[str, list[str]]:
    """The encoders of a row by kind: of a flag about encoders those that it is about."""
    asked = {}
    for kind in ("image", "gene"):
        concerned = FLAGS[flag].encoders.get(kind) if flag else None
        names = audit[f"{kind}_encoders"]
        asked[kind] = [name for name in names if concerned is None or name in concerned]
    return asked


def idle_reason(flag: str, audit: Mapping, start: str) -> str:
    """Why a flag makes no difference in an audit from this protocol; empty where it does."""
    _, _, options, encoders, dataset = FLAGS[flag]
    training = DECIDING | audit["training"]
    if dataset:
        return "" if flag in audit["data_flags"] else "data_flags names no datasets for it"
    if encoders:
        concerned = [name for names in encoders.values() for name in names]
        used = {*audit["image_encoders"], *audit["gene_encoders"]} & set(concerned)
        return "" if used else f"{' and '.join(concerned)} isn't among the encoders"
    if not options:
        return "no run of its own: every run is scored in both galleries"
    for option in options:
        if option in audit["training"]:
            return f"training.{option} is set to {training[option]!r} for all rows"
    augmentation = specs.augmentation_kind(training)
    crops = training.get("evaluation_crop", "random" if start == PUBLISHED else "whole")
    sharpens, draws = augmentation == "hescape", augmentation is not None or crops == "random"
    if (flag == "sharpness_after_normalisation" and not sharpens) or (
        flag == "augmentation_per_batch" and not draws
    ):
        return f"training.augmentation is {training['augmentation']}"
    if flag == "transformer_across_batch" and training["image_projection"] != "transformer":
        return "the image head is no transformer"
    return ""

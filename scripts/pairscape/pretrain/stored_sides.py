"""The stored features that a training reads in the place of an encoder, held against its data."""

from collections.abc import Mapping, Sequence
from functools import partial

from pairscape.core.errors import InputError
from pairscape.dataset import stored_features
from pairscape.encoders import specs as encoders
from pairscape.pretrain import experiment
from pairscape.pretrain.options import Training

MADE_BY = {"image": "embed_images", "gene": "embed_genes"}
SIDE = {"image": "images", "gene": "genes"}


def read(
    paths: Mapping[str, tuple],
    specs: Mapping[str, Mapping],
    training: Training,
    shards: Sequence[Mapping],
    shard_paths: Sequence,
    splits: Sequence[Mapping],
) -> dict[str, dict]:
    """Read the indices of stored features, for the sides whose encoder runs once per dataset.

    Parameters
    ----------
    paths, specs
        By kind of encoder (image, gene): its features (.npy) and their index (.json), None where not
        given; the encoder's file.
    shards, shard_paths
        The dataset's shards in order: ``sample``, ``rows`` and ``sha256``; where they lie.
    splits
        Rows of ``splits.tsv``.

    Returns
    -------
    By side (images, genes) the index, with ``path``, that of the features.
    """
    indices = {}
    once = experiment.runs_once(training.as_dict(), specs["gene"])
    for kind, (features, index_path) in paths.items():
        refuse = partial(InputError, f"--{kind}-features", "flag")
        if not once[kind]:
            if features:
                why = f"with these options the {kind} encoder runs in the training"
                raise refuse(features, f"leave it out: {why}")
            continue
        if None in (features, index_path):
            raise refuse("nothing", f"give the features that {MADE_BY[kind]} made, and their index")
        index = stored_features.read_features(features, index_path)[1]
        _check_features(index_path, kind, index, specs[kind], shards, shard_paths)
        if kind == "image":
            _check_views(index_path, index, training)
        else:
            _check_known(index_path, index, splits)
        indices[SIDE[kind]] = {**index, "path": features}
    return indices


def _check_features(path, kind: str, index: dict, spec: dict, shards, shard_paths) -> None:
    """Refuse features of another encoder or of other shards than those at hand."""
    refuse = partial(_refusal, path, f"run {MADE_BY[kind]} again")
    if index.get("encoder_sha256") != encoders.spec_sha256(spec):
        other = "features of another encoder, or of another state of its file"
        raise refuse("encoder_sha256", other)
    for shard, expected, shard_path in zip(shards, index["shards"], shard_paths, strict=False):
        if shard != expected:
            sample = expected.get("sample")
            raise refuse(f"shards, sample {sample}", f"features that weren't made of {shard_path}")
    if len(index["shards"]) != len(shards):
        raise refuse("shards", f"{len(index['shards'])} of them for {len(shards)} shards")


def _check_views(path, index: dict, training: Training) -> None:
    """Refuse image features with fewer views, or others, than are trained on."""
    wanted = experiment.stored_views(training.as_dict())
    if index["views"] < wanted:
        again = "embed the images again with so many views, or lower training.stored_views"
        raise _refusal(path, again, "views", f"{index['views']} where {wanted} are trained on")
    kind = index.get("augmentation")
    if wanted > 1 and kind != training.augmentation:
        others = f"views by {kind} where training.augmentation is {training.augmentation}"
        raise _refusal(path, "embed the images again", "augmentation", others)


def _check_known(path, index: dict, splits) -> None:
    """Refuse gene features of an encoder that was fitted on, or scaled by, held-out samples."""
    train = {row["sample"] for row in splits if row["split"] == "train"}
    fitted = index.get("fitted_on") or {"samples": [], "leaked": []}
    known = {sample["sample"] for sample in fitted["samples"]} - set(fitted["leaked"])
    for sample in sorted(known | set(index.get("train_samples", ()))):
        if sample not in train:
            leak = (
                "gene features of an encoder that knows of it, though it isn't in the train split"
            )
            again = "fit and run the gene encoder again, on this split"
            raise _refusal(path, again, f"sample {sample}", leak)


def _refusal(path, remedy: str, field: str, found: str) -> InputError:
    return InputError(path, field, found, remedy)

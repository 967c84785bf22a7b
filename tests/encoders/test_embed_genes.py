"""Embedding all spots of a dataset by a frozen gene encoder, as a program."""

import json
import socket

import numpy as np
import pytest
import torch
from small_nicheformer import CONFIG, KNOWN, SMALL, write_files
from tiny_pairs import GENES, SAMPLES, write_dataset

import embed_genes
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import gene_lists, stored_features
from pairscape.encoders import gene_encoders, specs
from pairscape.encoders.architectures import drvi

PANEL = {**SMALL, "input": {**SMALL["input"], "technology_mean": "train_split"}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    shards, _, counts, _ = write_dataset(folder, patch_px=8)
    vocabulary = [f"ENSG{gene}" for gene in GENES][::-1]
    write_files(folder, vocabulary=[*vocabulary, *(f"ENSG{i}" for i in range(KNOWN - 12))])
    return folder, shards, counts


def run(dataset, out, shards=None, flags=None, threads=1, **changes):
    folder, all_shards, _ = dataset
    options = {
        "encoder": SMALL,
        "encoder_name": "small",
        "dataset": "tiny",
        "samples": list(SAMPLES),
        "batch": 7,
    } | changes
    given = {"--weights": folder / "w.ckpt", "--genes": folder / "genes.tsv"} | (flags or {})
    embed_genes.main(
        [
            *("--shards", *map(str, shards or all_shards)),
            *(word for flag, path in given.items() if path for word in (flag, str(path))),
            *("--features", str(out / "features.npy"), "--index", str(out / "features.json")),
            *("--options", json.dumps(options), "--threads", str(threads)),
        ]
    )
    return stored_features.read_features(out / "features.npy", out / "features.json")


def test_features_are_the_towers_in_the_order_of_the_shards(dataset, tmp_path):
    folder, _, counts = dataset
    features, index = run(dataset, tmp_path)
    genes = gene_lists.read_genes(folder / "genes.tsv")
    tower = gene_encoders.build(SMALL, folder / "w.ckpt", genes)
    with torch.inference_mode():
        expected = tower(torch.from_numpy(counts)).numpy()
    assert isinstance(features, np.memmap)
    assert np.abs(features - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    assert [shard["sample"] for shard in index["shards"]] == list(SAMPLES)
    assert index["encoder_sha256"] == specs.spec_sha256(SMALL)
    assert index["fingerprint"] == gene_encoders.fingerprint(tower, SMALL, genes)
    assert index["views"] == 1


def test_the_same_bytes_come_again_with_any_number_of_threads_and_no_network(
    dataset, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    run(dataset, tmp_path / "one")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run(dataset, tmp_path / "three", threads=3)
    for name in ("features.npy", "features.json"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("one", "three"))
        assert first == second


def test_panel_means_are_those_of_the_train_split_alone(dataset, tmp_path):
    folder, shards, _ = dataset
    flags = {"--splits": folder / "splits.tsv"}
    features, index = run(dataset, tmp_path / "a", encoder=PANEL, flags=flags)
    assert index["train_samples"] == ["S1"]
    official, _ = run(dataset, tmp_path / "b")
    assert np.abs(features - official).max() > 1e-3
    # Other test spots change no other spot's embedding: S1 and S2 stand beside another S3.
    fewer = {"shards": shards[:2], "samples": list(SAMPLES)[:2]}
    (tmp_path / "splits.tsv").write_text(
        "".join(line for line in flags["--splits"].open() if not line.startswith("S3"))
    )
    flags = {"--splits": tmp_path / "splits.tsv"}
    part, _ = run(dataset, tmp_path / "c", encoder=PANEL, flags=flags, **fewer)
    assert np.abs(part - features[: len(part)]).max() < 1e-5
    with pytest.raises(InputError, match=r"give splits\.tsv"):
        run(dataset, tmp_path / "d", encoder=PANEL)


def test_what_cant_be_embedded_is_refused_and_nothing_is_left(dataset, tmp_path):
    mlp = {**SMALL, "learned_from": "pair", "weights": None}
    fitted = {**SMALL, "learned_from": "dataset", "weights": None}
    cases = (
        ({"encoder": {**SMALL, "built": False}}, "not built yet"),
        ({"encoder": mlp}, "learns with the pair has no embeddings"),
        ({"encoder": fitted, "flags": {"--weights": None}}, "fit small to the dataset"),
        ({"flags": {"--weights": None}}, "fetch the weights of Nicheformer first"),
        ({"flags": {"--weights": tmp_path / "none.ckpt"}}, "found nothing; fetch the weights"),
        ({"shards": dataset[1][::-1]}, "sample: found S3"),
        ({"shards": dataset[1][:1]}, "give one for each of 3 samples"),
    )
    for changes, said in cases:
        with pytest.raises(InputError) as error:
            run(dataset, tmp_path / "out", **changes)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_genes_that_arent_the_shards_are_refused(dataset, tmp_path):
    genes = tmp_path / "genes.tsv"
    gene_lists.write_genes(genes, [(f"X{i}", f"ENSG{i}") for i in range(12)])
    with pytest.raises(InputError, match=r"S1\.arrow: genes"):
        run(dataset, tmp_path / "out", flags={"--genes": genes})


def test_an_untrained_control_needs_no_weights_and_says_so_in_its_index(dataset, tmp_path):
    control = {**SMALL, "weights": None, "control": "untrained"}
    features, index = run(dataset, tmp_path, encoder=control, flags={"--weights": None})
    assert np.isfinite(features).all()
    trained, other = run(dataset, tmp_path / "b")
    assert index["weights_sha256"] != other["weights_sha256"]
    assert np.abs(features - trained).max() > 1e-2


def write_fitted(folder, shards, samples):
    """A DRVI encoder as a fit leaves it, at random, with its record; returns spec and path."""
    spec = specs.read_encoder(CONFIG, "gene", "drvi")
    spec["arguments"] = {**spec["arguments"], "n_latent": 4, "encoder_dims": [8]}
    spec |= {"width": 4, "parameters": 8 + 36, "parameters_per_gene": 8}
    torch.manual_seed(0)
    network = drvi.network(len(GENES), spec["arguments"])
    folder.mkdir()
    torch.save(network.state_dict(), folder / "encoder.pt")
    sums = dict(zip(SAMPLES, map(files.sha256_file, shards), strict=True))
    record = {
        "format": drvi.FORMAT,
        "arguments": spec["arguments"],
        "genes": GENES,
        "leaked": [],
        "samples": [{"sample": name, "sha256": sums[name]} for name in samples],
        "sha256": files.sha256_file(folder / "encoder.pt"),
    }
    files.write_json(folder / drvi.FIT_FILE, record)
    return spec, folder / "encoder.pt", network.eval()


def test_a_fitted_encoder_is_used_where_it_saw_the_train_split_alone(dataset, tmp_path):
    folder, shards, counts = dataset
    spec, path, network = write_fitted(tmp_path / "honest", shards, ["S1"])
    flags = {"--weights": path, "--splits": folder / "splits.tsv"}
    features, index = run(dataset, tmp_path / "a", encoder=spec, flags=flags)
    with torch.inference_mode():
        expected = network(torch.log1p(torch.from_numpy(counts).float())).numpy()
    assert np.abs(features - expected).max() < 1e-5
    assert [sample["sample"] for sample in index["fitted_on"]["samples"]] == ["S1"]

    spec, path, _ = write_fitted(tmp_path / "leaky", shards, ["S1", "S3"])
    flags["--weights"] = path
    with pytest.raises(InputError, match="samples, S3: found a sample that is in test"):
        run(dataset, tmp_path / "b", encoder=spec, flags=flags)
    assert not (tmp_path / "b").exists()

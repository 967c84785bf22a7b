"""Nicheformer: its tokens, its numbers, its files, and what is refused of them."""

import json
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from small_nicheformer import KNOWN, SMALL, write_files
from torch import nn

from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts
from pairscape.encoders import gene_encoders, specs
from pairscape.encoders.architectures import nicheformer

CONFIG = Path(__file__).resolve().parents[2] / "config" / "encoders"
SPEC = specs.read_encoder(CONFIG, "gene", "nicheformer")
GENES = [{"gene_symbol": f"G{i}", "gene_id": f"ENSG{i:011d}"} for i in range(40)]


def changed(spec, **changes):
    """The encoder with keys of ``arguments`` and ``input`` changed."""
    return {
        **spec,
        "arguments": {**spec["arguments"], **changes.get("arguments", {})},
        "input": {**spec["input"], **changes.get("input", {})},
    }


def small_counts(rows=30, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.4, 2.0, (rows, 1)) * rng.gamma(0.5, 2.0, 40)).astype(np.int32)
    counts[3] = 0
    return counts


@pytest.mark.parametrize("case", ["distinct", "ties"])
def test_tokens_equal_the_golden_ones(shared, case):
    _, arrays = golden.read(shared, "nicheformer_tokens")
    arrays = {
        name.removeprefix(f"{case}_"): value for name, value in arrays.items() if case in name
    }
    places = arrays["gene_to_ref"]
    columns = np.flatnonzero(places >= 0)
    columns = columns[np.argsort(places[columns])]
    means = np.nan_to_num(arrays["technology_mean"])
    divisor = np.where(means == 0, 1, means)[places[columns]]
    counts = torch.from_numpy(arrays["counts"])

    def tokens(**options):
        spec = changed(
            SPEC,
            arguments={"context_length": 400, "mean_over_pads": True},
            input={"context_tokens": [], **options},
        )
        made = (nn.Identity(), spec, columns, places[columns] + 30, divisor)
        return nicheformer.Nicheformer(*made).prepare(counts).numpy()

    assert np.array_equal(tokens(), arrays["stable_by_value_then_index"])

    # HESCAPE's are equal up to ties, that is by their values; and it keeps genes without counts.
    found, expected = tokens(zero_counts=True), arrays["hescape_tokens"]
    values = np.zeros((3, 2100))
    values[:, places[columns] + 30] = counts.numpy()[:, columns] / divisor
    for mine, theirs, value in zip(found, expected, values, strict=True):
        assert sorted(mine) == sorted(theirs)
        assert np.allclose(value[mine], value[theirs], rtol=1e-6)


@pytest.mark.parametrize("kind", ["official", "official_rounded"])
def test_official_means_are_read_as_the_golden_tokens_say(shared, tmp_path, kind):
    _, arrays = golden.read(shared, "nicheformer_tokens")
    places, file = arrays["distinct_gene_to_ref"], tmp_path / "means.npy"
    np.save(file, arrays["distinct_technology_mean"])
    spec = changed(
        SPEC,
        arguments={"context_length": 400, "mean_over_pads": True, "n_tokens": 2030},
        input={"context_tokens": []},
    )
    columns = np.flatnonzero(places >= 0)
    columns = columns[np.argsort(places[columns])]
    divisor = nicheformer.official_means(spec, file, kind)[0][places[columns]]
    tower = nicheformer.Nicheformer(nn.Identity(), spec, columns, places[columns] + 30, divisor)
    counts = arrays["distinct_counts"]
    found = tower.prepare(torch.from_numpy(counts)).numpy()
    name = {"official": "theislab_tokens", "official_rounded": "theislab_rounded_mean_tokens"}
    expected = arrays[f"distinct_{name[kind]}"]
    values = np.zeros((3, 2100))
    values[:, places[columns] + 30] = counts[:, columns] / divisor
    for mine, theirs, value in zip(found, expected, values, strict=True):
        assert sorted(mine) == sorted(theirs)
        assert np.allclose(value[mine], value[theirs], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
def test_embeddings_equal_the_golden_ones(shared, weight_set):
    facts, arrays = golden.read(shared, "nicheformer")
    lines = facts["state_dict"]
    assert golden.names_shapes_sha256((n, s) for n, s, *_ in lines) == facts["names_shapes_sha256"]
    state = golden.state(lines, weight_set)
    assert golden.weights_sha256(state) == facts[f"weights_sha256_{weight_set}"]
    spec = {**SPEC, "weights": {**SPEC["weights"], "layout": "nicheformer"}}
    entries = nicheformer.named_entries(spec, {"state_dict": state}, "golden")
    tokens = torch.from_numpy(arrays["tokens"]).long()
    layer_5 = []

    def tower_of(name, **changes):
        chosen = changed(specs.read_encoder(CONFIG, "gene", name), **changes)
        tower = gene_encoders.build({**chosen, "weights": spec["weights"]}, None, GENES)
        tower.model.load_state_dict(entries, strict=True)
        return tower

    def off(found, name):
        return golden.largest_difference(found.numpy(), arrays[f"{name}_{weight_set}"])

    with torch.inference_mode():
        tower = tower_of("nicheformer", arguments={"mean_over_pads": True})
        context = tower.context.expand(2, -1)
        sequence = torch.cat([context, tokens], 1)[:, :1500]
        layer = tower.model.encoder.layers[5]
        layer.register_forward_hook(lambda module, inputs, output: layer_5.append(output))
        x = tower.model(sequence)
        assert off(x[:, :4], "last_layer_tokens_first4") < golden.ATOL
        assert off(x[:, 1498:], "last_layer_tokens_padded") < golden.ATOL
        theirs = tower.pool(sequence, x)
        assert off(theirs, "embedding_theislab") < golden.ATOL
        assert off(tower.pool(sequence, layer_5[0]), "embedding_theislab_layer5") < golden.ATOL
        tower.skip_first = 0
        assert off(tower.pool(sequence, x), "embedding_theislab_with_context") < golden.ATOL

        # Ours: the same sequence, pads cut off, the mean over real tokens alone.
        tower.skip_first, tower.mean_over_pads = 3, False
        ours = tower.pool(sequence, x)
        difference = facts["checks"][f"mean_over_real_tokens_only_differs_by_{weight_set}"]
        assert float((ours - theirs).abs().max()) == pytest.approx(difference, abs=golden.ATOL)
        cut = sequence[1:, :303]
        assert float((tower.pool(cut, tower.model(cut)) - ours[1:]).abs().max()) < golden.ATOL

        published = tower_of("nicheformer_published")
        assert off(published.pool(tokens, published.model(tokens)), "embedding_hescape") < 2e-5


def test_the_parameters_are_those_of_the_published_file_without_what_is_never_run(shared):
    facts, _ = golden.read(shared, "nicheformer")
    used = [s for n, s, *_ in facts["state_dict"] if n.split(".")[0] in ("encoder", "embeddings")]
    used.append([1500, 512])
    assert sum(int(np.prod(shape)) for shape in used) == SPEC["parameters"]
    with torch.device("meta"):
        network = nicheformer.Network(SPEC["arguments"])
    assert sum(p.numel() for p in network.parameters()) == SPEC["parameters"]


def test_a_small_encoder_is_read_from_its_files(tmp_path):
    path, network = write_files(tmp_path)
    tower = gene_encoders.build(SMALL, path, GENES)
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())
    counts = small_counts()
    with torch.inference_mode():
        found = tower(torch.from_numpy(counts))
        # By hand: the vocabulary runs backwards from gene 49 to gene 5.
        means = np.arange(KNOWN) % 7.0
        means[:4] = 0
        means[means == 0] = 1
        for row in (0, 7, 11):
            values = {49 - g: counts[row, g] / means[49 - g] for g in range(5, 40)}
            ranked = sorted((p for p in values if values[p] > 0), key=lambda p: (-values[p], p))
            tokens = torch.tensor([[5, 9, 4, *(p + 30 for p in ranked)][:30]])
            expected = network(tokens)[0, 3:].mean(0)
            assert float((found[row] - expected).abs().max()) < 1e-6
    assert torch.equal(found[3], torch.zeros(16))  # a spot without counts
    # A saved state holds all of it, the vocabulary too.
    again = gene_encoders.build(SMALL, None, GENES)
    again.load_state_dict(tower.state_dict(), strict=True)
    assert torch.equal(again(torch.from_numpy(counts)), found)


def test_the_mirrors_layout_is_read_to_the_same_model(tmp_path):
    from safetensors.torch import save_file

    path, _ = write_files(tmp_path)
    entries = torch.load(path, weights_only=True)["state_dict"]
    inner = {f"nicheformer.{name}": v for name, v in entries.items() if "head" not in name}
    save_file({**inner, "classifier_head.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    weights = {**SMALL["weights"], "layout": "nicheformer_huggingface"}
    mirrored = {**SMALL, "weights": weights}
    counts = torch.from_numpy(small_counts())
    ours = gene_encoders.build(SMALL, path, GENES)(counts)
    theirs = gene_encoders.build(mirrored, tmp_path / "model.safetensors", GENES)(counts)
    assert torch.equal(ours, theirs)


def remove(name):
    return lambda entries: entries.pop(name)


def rename(name):
    return lambda entries: entries.update(other=entries.pop(name))


def put(name, value):
    return lambda entries: entries.update({name: value})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("positional_embedding.weight"), "entry positional_embedding.weight"),
        (rename("encoder.layers.1.linear2.bias"), "first unknown: other"),
        (put("embeddings.weight", torch.zeros(3, 16)), "the model needs the shape (80, 16)"),
        (put("more.weight", torch.zeros(2)), "entry more.weight"),
        (put("encoder.layers.0.norm1.bias", torch.full((16,), torch.nan)), "aren't finite"),
    ],
)
def test_a_damaged_checkpoint_stops_with_one_line(tmp_path, damage, said):
    path, _ = write_files(tmp_path, damage)
    with pytest.raises(InputError) as error:
        gene_encoders.build(SMALL, path, GENES)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_other_wrappers_and_no_checkpoint_at_all_stop_with_one_line(tmp_path):
    path, _ = write_files(tmp_path)
    entries = torch.load(path, weights_only=True)["state_dict"]
    for stored, said in (
        ({"model": entries}, "entry state_dict: found nothing"),
        (entries, "entry state_dict: found nothing"),
        ([1, 2], "found list"),
    ):
        torch.save(stored, path)
        with pytest.raises(InputError) as error:
            gene_encoders.build(SMALL, path, GENES)
        assert said in str(error.value)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="weights"):
        gene_encoders.build(SMALL, path, GENES)


@pytest.mark.parametrize("name", ["model.h5ad", "xenium_mean_script.npy"])
def test_a_missing_or_damaged_extra_file_is_one_line(tmp_path, name):
    path, _ = write_files(tmp_path)
    (tmp_path / name).write_bytes(b"no such thing")
    with pytest.raises(InputError) as error:
        gene_encoders.build(SMALL, path, GENES)
    assert name in str(error.value)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="found nothing") as error:
        gene_encoders.build(SMALL, path, GENES)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_another_model_are_refused(tmp_path):
    path, _ = write_files(tmp_path, vocabulary=[f"ENSG{i}" for i in range(9)])
    with pytest.raises(InputError, match="9 genes"):
        gene_encoders.build(SMALL, path, GENES)
    path, _ = write_files(tmp_path, means=np.full(KNOWN, -1.0))
    with pytest.raises(InputError, match="none negative"):
        gene_encoders.build(SMALL, path, GENES)


def test_genes_are_matched_by_id_and_what_cant_be_is_refused(tmp_path):
    path, _ = write_files(tmp_path)
    versions = [{**gene, "gene_id": gene["gene_id"] + ".7"} for gene in GENES]
    counts = torch.from_numpy(small_counts())
    expected = gene_encoders.build(SMALL, path, GENES)(counts)
    assert torch.equal(gene_encoders.build(SMALL, path, versions)(counts), expected)
    order = np.random.default_rng(0).permutation(40)
    shuffled = gene_encoders.build(SMALL, path, [GENES[i] for i in order])
    assert torch.equal(shuffled(counts[:, order]), expected)
    unknown = [{**gene, "gene_id": gene["gene_symbol"]} for gene in GENES]
    with pytest.raises(InputError, match="none of them in the vocabulary"):
        gene_encoders.build(SMALL, path, unknown)
    twice = [*GENES[:-1], {"gene_symbol": "COPY", "gene_id": GENES[7]["gene_id"]}]
    with pytest.raises(InputError, match="G7 and COPY"):
        gene_encoders.build(SMALL, path, twice)


def test_means_of_the_train_split_rank_each_gene_by_its_own_mean():
    spec = changed(SMALL, input={"technology_mean": "train_split"}, arguments={"n_tokens": 75})
    assert specs.uses_train_facts(spec)
    assert not specs.uses_train_facts(SMALL)
    means = np.ones(40)
    means[0], means[39] = 100.0, 0.0  # seen much; never seen, so as rare as the rarest
    train = expression_counts.TrainFacts(library_size=10.0, mean_per_10k=means)
    tower = gene_encoders.build(spec, None, GENES, train)
    counts = torch.zeros(1, 40, dtype=torch.int32)
    counts[0, [0, 5, 39]] = torch.tensor([50, 2, 3], dtype=torch.int32)
    assert tower.prepare(counts).tolist() == [[5, 9, 4, 30 + 39, 30 + 5, 30]]
    with pytest.raises(ValueError, match="train split"):
        gene_encoders.build(spec, None, GENES)(counts)
    # A saved state brings them along.
    again = gene_encoders.build(spec, None, GENES)
    again.load_state_dict(tower.state_dict(), strict=True)
    assert torch.equal(again(counts), tower(counts))


@pytest.mark.parametrize("name", ["nicheformer", "nicheformer_published"])
def test_a_spots_embedding_depends_on_no_other_and_lengths_are_the_tokens(name):
    spec = specs.read_encoder(CONFIG, "gene", name)
    small = changed({**SMALL, "input": spec["input"]}, arguments={"mean_over_pads": False})
    small["arguments"]["mean_over_pads"] = spec["arguments"]["mean_over_pads"]
    tower = gene_encoders.build(small, None, GENES)
    counts = torch.from_numpy(small_counts())
    with torch.inference_mode():
        together = tower(counts)
        lengths = tower.lengths(counts)
        for row in range(len(counts)):
            alone = tower(counts[row : row + 1])
            assert float((alone[0] - together[row]).abs().max()) < 1e-6
            tokens = tower.prepare(counts[row : row + 1])
            assert tokens.shape[1] == max(1, int(lengths[row])) or name != "nicheformer"
    if name == "nicheformer_published":
        assert set(lengths.tolist()) == {30}


def test_adapters_on_its_targets_take_part_and_learn():
    import peft

    tower = gene_encoders.build(SMALL, None, GENES)
    counts = torch.from_numpy(small_counts())
    before = tower(counts)
    targets = SPEC["finetuning"]["lora_targets"]
    tower.model = peft.get_peft_model(
        tower.model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    )
    assert float((tower(counts) - before).abs().max()) > 1e-3
    tower(counts).square().sum().backward()
    learning = {n: p.grad for n, p in tower.named_parameters() if p.requires_grad}
    assert sum("out_proj" in name for name in learning) == 4  # A and B of two layers
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in learning.values())


def test_the_published_quirks_are_named_flags():
    published = specs.read_encoder(CONFIG, "gene", "nicheformer_published")
    assert specs.weights_name(published, "nicheformer_published") == "nicheformer"
    differing = {
        key
        for part in ("arguments", "input")
        for key in SPEC[part]
        if json.dumps(SPEC[part][key]) != json.dumps(published[part][key])
    }
    assert differing == {"mean_over_pads", "context_tokens", "zero_counts"}

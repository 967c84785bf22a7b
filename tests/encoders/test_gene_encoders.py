"""Gene encoders in general: the MLP's numbers, scaling of counts, batches, fingerprints."""

from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts
from pairscape.encoders import gene_encoders, specs, towers

CONFIG = Path(__file__).resolve().parents[2] / "config" / "encoders"
MLP = specs.read_encoder(CONFIG, "gene", "mlp")
TRAIN = expression_counts.TrainFacts(library_size=8.0, mean_per_10k=np.ones(3))


def named(genes):
    return [{"gene_symbol": f"G{i}", "gene_id": f"ENSG{i:011d}"} for i in range(genes)]


@pytest.mark.parametrize("genes", [280, 377, 5001])
def test_the_mlp_gene_encoder_has_the_published_parameters(genes):
    tower = gene_encoders.build(MLP, None, named(genes))
    assert sum(p.numel() for p in tower.parameters()) == 128 * genes + 50688
    assert all(p.requires_grad for p in tower.parameters())  # it learns with the pair
    assert tower.training


@pytest.mark.parametrize("weight_set", golden.WEIGHT_SETS)
def test_the_mlp_gives_the_golden_numbers(shared, weight_set):
    facts, arrays = golden.read(shared, "hescape_heads")
    state = golden.state(facts["state_dict_generic_eval"], weight_set)
    tower = gene_encoders.build(MLP, None, named(280))
    keep = {n: v for n, v in tower.model.state_dict().items() if n.endswith("tracked")}
    entries = {name.removeprefix("nn."): value for name, value in state.items()}
    tower.model.load_state_dict({**entries, **keep}, strict=True)
    counts = torch.from_numpy(arrays["generic_counts"])
    with torch.inference_mode():
        # The golden input is log1p of the counts as they are: no library size.
        inputs = gene_encoders.prepare_counts({"input": {"library_size": "none"}}, counts, None)
        found = tower.eval().model(inputs)
        expected = arrays[f"generic_eval_{weight_set}"]
        assert golden.largest_difference(found.numpy(), expected) < golden.ATOL
        for module in tower.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        found = tower.train().model(inputs)
        expected = arrays[f"generic_train_no_dropout_{weight_set}"]
        assert golden.largest_difference(found.numpy(), expected) < golden.ATOL
        for what in ("mean", "var"):
            found = getattr(tower.model.batchnorm_0, f"running_{what}").numpy()
            expected = arrays[f"generic_running_{what}_after_{weight_set}"]
            assert golden.largest_difference(found, expected) < golden.ATOL


def test_counts_are_scaled_to_the_train_splits_library_size_whatever_their_batch():
    counts = torch.tensor([[1, 3, 0], [10, 0, 10], [0, 0, 0]], dtype=torch.int32)
    tower = gene_encoders.build(MLP, None, named(3), TRAIN)
    prepared = tower.prepare(counts)
    assert torch.allclose(prepared[0], torch.log1p(torch.tensor([2.0, 6.0, 0.0])))
    assert torch.equal(prepared[2], torch.zeros(3))
    # Not by equality: the logarithm of one row may take other instructions than that of three.
    torch.testing.assert_close(tower.prepare(counts[1:2])[0], prepared[1], rtol=0, atol=golden.ATOL)
    assert specs.uses_train_facts(MLP)


def test_the_published_mlp_scales_to_the_lower_median_of_the_batch():
    spec = specs.read_encoder(CONFIG, "gene", "mlp_published")
    assert not specs.uses_train_facts(spec)
    tower = gene_encoders.build(spec, None, named(3))
    counts = torch.tensor([[1, 3, 0], [10, 0, 10], [1, 1, 0], [8, 0, 0]])  # sums 4, 20, 2, 8
    prepared = tower.prepare(counts)
    assert torch.allclose(prepared, torch.log1p(counts * 4 / counts.sum(1, keepdim=True)))
    assert not torch.equal(tower.prepare(counts[1:2])[0], prepared[1])


def test_without_facts_of_the_train_split_nothing_quietly_runs_until_a_state_brings_them():
    counts = torch.ones(2, 3)
    empty = gene_encoders.build(MLP, None, named(3)).eval()
    assert bool(empty(counts).isnan().any())
    known = gene_encoders.build(MLP, None, named(3), TRAIN).eval()
    empty.load_state_dict(known.state_dict(), strict=True)
    assert torch.equal(empty(counts), known(counts))


class Lengthy(towers.GeneTower):
    """A stand-in whose tokens are the expressed genes, and that notes the batches it gets."""

    def __init__(self):
        super().__init__(nn.Identity(), 2)
        self.batches = []

    def lengths(self, counts):
        return (counts > 0).sum(1)

    def forward(self, counts):
        self.batches.append((len(counts), int(self.lengths(counts).max())))
        return torch.stack([counts.sum(1), counts[:, 0]], 1).float()


class Plain(Lengthy):
    lengths = None

    def forward(self, counts):
        self.batches.append((len(counts), 0))
        return torch.stack([counts.sum(1), counts[:, 0]], 1).float()


@pytest.mark.parametrize("tower", [Lengthy(), Plain()])
@pytest.mark.parametrize("threads", [1, 3])
def test_spots_come_back_in_order_whatever_the_threads_and_batches(tower, threads):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 3.0, (2500, 1)), (2500, 40)).astype(np.int32)
    rows = rng.permutation(2500)[:2100]
    blocks = list(gene_encoders.embed(tower, counts, rows, 50, threads, batch_tokens=200))
    found = np.concatenate(blocks)
    assert np.array_equal(found[:, 0], counts[rows].sum(1))
    assert np.array_equal(found[:, 1], counts[rows, 0])
    assert max(len(block) for block in blocks) <= 1024


def test_batches_are_made_by_length_within_a_bound_of_tokens():
    tower, counts = Lengthy(), np.zeros((1000, 300), np.int32)
    lengths = np.random.default_rng(0).integers(0, 301, 1000)
    lengths[17] = 300
    for row, length in enumerate(lengths):
        counts[row, :length] = 1
    list(gene_encoders.embed(tower, counts, range(1000), 20, 1, batch_tokens=900))
    assert sum(size for size, _ in tower.batches) == 1000
    assert max(size for size, _ in tower.batches) == 20
    assert max(size * longest for size, longest in tower.batches) <= 900
    padded = sum(size * longest for size, longest in tower.batches)
    assert padded < 1.1 * lengths.sum()  # in their own order, 1.5 times
    tower.batches = []
    list(gene_encoders.embed(tower, counts, [17, 17], 64, 1, batch_tokens=100))
    assert tower.batches == [(1, 300), (1, 300)]  # one longer than the bound runs alone


def test_no_rows_give_no_blocks():
    assert list(gene_encoders.embed(Plain(), np.zeros((0, 4)), range(0))) == []


def test_an_error_in_a_batch_comes_through():
    class Broken(Plain):
        def forward(self, counts):
            raise ValueError("no such batch")

    with pytest.raises(ValueError, match="no such batch"):
        list(gene_encoders.embed(Broken(), np.zeros((3000, 4)), range(3000), threads=2))


def test_a_fingerprint_follows_the_model_and_not_the_order_of_the_genes():
    spec = specs.read_encoder(CONFIG, "gene", "mlp")
    genes = named(30)
    train = expression_counts.TrainFacts(library_size=50.0, mean_per_10k=np.ones(30))
    torch.manual_seed(0)
    tower = gene_encoders.build(spec, None, genes, train).eval()
    found = gene_encoders.fingerprint(tower, spec, genes)
    assert len(found) == 16
    assert found == gene_encoders.fingerprint(tower, spec, genes)
    order = np.random.default_rng(0).permutation(30)
    with torch.no_grad():
        tower.model.input.weight.copy_(tower.model.input.weight[:, order])
    moved = gene_encoders.fingerprint(tower, spec, [genes[i] for i in order])
    assert np.allclose(found, moved, atol=2e-3)
    assert not np.allclose(found, gene_encoders.fingerprint(tower, spec, genes), atol=2e-3)
    with pytest.raises(InputError, match="width"):
        gene_encoders.fingerprint(tower, {**spec, "width": 64}, genes)


def test_what_doesnt_fit_the_file_is_refused(tmp_path):
    for changes, said in (
        ({"builder": "perceptron"}, "builder: found 'perceptron'"),
        ({"parameters": 1}, "parameters: found 51,072"),
        ({"input": {**MLP["input"], "transform": "sqrt"}}, "input.transform: found 'sqrt'"),
    ):
        with pytest.raises(InputError) as error:
            gene_encoders.build({**MLP, **changes}, None, named(3))
        assert said in str(error.value)
    with pytest.raises(InputError, match="give none"):
        gene_encoders.build(MLP, tmp_path / "weights.pt", named(3))


def test_random_weights_of_an_encoder_that_is_frozen_are_always_the_same_and_disturb_no_seed():
    spec = specs.read_encoder(CONFIG, "gene", "nicheformer")
    small = {"dim": 16, "heads": 2, "layers": 1, "feed_forward": 16, "n_tokens": 75}
    spec = {**spec, "width": 16, "parameters": 26976}
    spec["arguments"] = {**spec["arguments"], **small}
    torch.manual_seed(5)
    first = gene_encoders.build(spec, None, named(20)).state_dict()
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    second = gene_encoders.build(spec, None, named(20)).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())

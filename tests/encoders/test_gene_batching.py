"""Every gene encoder embeds a spot by itself: its batch, its place and threads don't matter.

Those that HESCAPE's quirks make depend on the batch are named by their keys, and are seen to.
"""

import copy
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pairscape.dataset import expression_counts
from pairscape.encoders import gene_encoders, towers
from pairscape.encoders import specs as encoders

FOLDER = Path(__file__).resolve().parents[2] / "config/encoders"
GENES = [{"gene_symbol": f"G{i}", "gene_id": f"ENSG{i:05d}"} for i in range(60)]
TRAIN = expression_counts.TrainFacts(40.0, np.linspace(20, 400, len(GENES)))
# The networks cut small; the preparation and the pooling are what is looked at.
NETWORK = {"dim": 24, "heads": 3, "layers": 2, "feed_forward": 48}
SMALL = {
    "mlp": {},
    "drvi": {},
    "nicheformer": NETWORK | {"n_tokens": 120, "context_length": 80},
    "scfoundation": NETWORK | {"genes": 200},
}
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def specs() -> dict[str, dict]:
    """The gene encoders that are networks, by name."""
    found = {
        n: encoders.read_encoder(FOLDER, "gene", n) for n in encoders.list_encoders(FOLDER, "gene")
    }
    return {n: spec for n, spec in found.items() if spec["builder"] in gene_encoders.BUILDERS}


SPECS = specs()


def mixes(name: str) -> bool:
    """Whether an encoder's file asks for what makes a spot depend on its batch."""
    spec = SPECS[name]
    return (
        spec["input"]["library_size"] == "batch_median"
        or spec["arguments"].get("pool_over") == "padded"
    )


def tower_of(name: str) -> towers.GeneTower:
    spec = copy.deepcopy(SPECS[name])
    spec["arguments"].update(SMALL[spec["builder"]])
    if "dim" in spec["arguments"]:
        spec["width"] = spec["arguments"]["dim"] * (
            4 if spec["arguments"].get("pool") == "all" else 1
        )
    module = importlib.import_module(
        f"pairscape.encoders.architectures.{gene_encoders.BUILDERS[spec['builder']]}"
    )
    torch.manual_seed(3)
    tower = module.build(spec, None, GENES, TRAIN)
    for parameter in tower.parameters():  # strong attention; small biases that aren't zero
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 1.5 / parameter.shape[1] ** 0.5)
        else:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return tower.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """(40, genes) spots of very different depth; one is empty, and one has every gene."""
    random = np.random.default_rng(11)
    depth = random.choice([0.02, 0.1, 0.5, 3.0], 40)
    found = random.poisson(depth[:, None], (40, len(GENES))).astype(np.int32)
    found[4], found[5] = 0, 1 + random.poisson(2.0, len(GENES))
    return found


def embedded(tower, counts, rows, **options) -> np.ndarray:
    return np.concatenate(list(gene_encoders.embed(tower, counts, rows, **options)))


def test_every_builder_is_looked_at():
    assert {spec["builder"] for spec in SPECS.values()} == set(SMALL) == set(gene_encoders.BUILDERS)
    assert {name for name in SPECS if mixes(name)} >= {"mlp_published", "scfoundation_published"}


@pytest.mark.parametrize("name", [name for name in SPECS if not mixes(name)])
def test_an_embedding_depends_on_its_spot_alone(name, counts):
    tower, rows = tower_of(name), np.arange(len(counts))
    with torch.inference_mode():
        alone = torch.cat([tower(torch.from_numpy(counts[i : i + 1])) for i in rows])
        together = tower(torch.from_numpy(counts))
    assert alone.shape == (len(counts), tower.width)
    assert bool(torch.isfinite(alone).all())
    assert float(alone.std(0).max()) > 1e-2  # not the same for all
    torch.testing.assert_close(together, alone, **TOLERANCE)
    shuffled = np.random.default_rng(2).permutation(rows)
    for options in ({}, {"batch": 7}, {"batch_tokens": 100}, {"batch": 3, "threads": 2}):
        found = embedded(tower, counts, shuffled, **options)
        torch.testing.assert_close(torch.from_numpy(found), alone[shuffled], **TOLERANCE)


@pytest.mark.parametrize("name", SPECS)
def test_threads_change_no_bit(name, counts):
    tower, rows = tower_of(name), np.arange(len(counts))
    one = embedded(tower, counts, rows, batch=6, threads=1)
    assert np.isfinite(one).all()
    assert np.array_equal(one, embedded(tower, counts, rows, batch=6, threads=3))


@pytest.mark.parametrize("name", [name for name in SPECS if mixes(name)])
def test_published_quirks_make_an_embedding_depend_on_its_batch(name, counts):
    tower = tower_of(name)
    first = embedded(tower, counts, np.arange(8), batch=8)
    mates = embedded(tower, counts, np.array([0, 5, 9, 10, 11, 12, 13, 14]), batch=8)
    assert np.abs(first[0] - mates[0]).max() > 1e-3
    # Batches are runs of the rows as they come: making them by length would choose the mates.
    assert not hasattr(tower, "lengths")
    with torch.inference_mode():
        wanted = tower(torch.from_numpy(counts[8:16])).numpy()
    assert np.array_equal(embedded(tower, counts, np.arange(40), batch=8)[8:16], wanted)


@pytest.mark.parametrize("name", [name for name in SPECS if hasattr(tower_of(name), "lengths")])
def test_lengths_are_the_tokens_that_a_spot_takes(name, counts):
    tower = tower_of(name)
    lengths = tower.lengths(torch.from_numpy(counts))
    for row in range(len(counts)):
        prepared = tower.prepare(torch.from_numpy(counts[row : row + 1]))
        values = prepared[0] if isinstance(prepared, tuple) else prepared
        assert values.shape[1] == max(1, int(lengths[row])), row

"""Dropout by row: the right share, no pattern, and the same in any chunk and process."""

import numpy as np
import pytest
import torch
from torch import nn

from pairscape.pretrain import row_dropout
from pairscape.pretrain.options import machine_options, resolve_training


def keys(count, seed=1, step=2, side=0):
    return torch.from_numpy(row_dropout.row_keys(seed, step, side, count))


def layer(p=0.2, name="a"):
    return row_dropout.RowDropout(p, name).train()


def dropped(count, width, p=0.2, name="a", **about):
    module = layer(p, name)
    module.keys = keys(count, **about)
    return module(torch.ones(count, width)) == 0


def test_the_hash_is_murmurs_finaliser_on_32_bits():
    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ (h >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ (h >> 16)

    made = row_dropout.uniform_bits(keys(3), 5, 0xDEADBEEF).numpy().view(np.uint32)
    for row, (one, two) in enumerate(keys(3).numpy().view(np.uint32).tolist()):
        step, start = (one ^ 0xDEADBEEF) | 1, two ^ 0xDEADBEEF
        for place in range(5):
            assert made[row, place] == mix((place * step + start) & 0xFFFFFFFF)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_the_share_and_the_scale_are_dropouts(p):
    module = layer(p)
    module.keys = keys(400)
    out = module(torch.ones(400, 500))
    assert float((out == 0).float().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 2e5) ** 0.5)
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - p)])


def test_masks_of_rows_layers_steps_and_sides_are_as_if_drawn_apart():
    """Neighbouring places, rows, layers, steps and sides: none tells anything of another."""
    mask = dropped(200, 1000).float()
    others = [
        (mask[:, 1:], mask[:, :-1]),
        (mask[1:], mask[:-1]),
        (mask, dropped(200, 1000, name="b").float()),
        (mask, dropped(200, 1000, step=3).float()),
        (mask, dropped(200, 1000, side=1).float()),
    ]
    for one, other in others:
        r = float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
        assert abs(r) < 4 / one.numel() ** 0.5
    for share in (mask.mean(0), mask.mean(1)):  # no place and no row is kept or dropped more often
        expected = (0.16 / (mask.numel() / len(share))) ** 0.5
        assert float(share.std()) == pytest.approx(expected, rel=0.2)


def test_a_row_drops_the_same_whatever_else_is_there():
    module, x = layer(), torch.randn(8, 5, 7)
    module.keys = keys(8)
    whole = module(x)
    for rows in (slice(0, 3), slice(3, 8)):
        module.keys = keys(8)[rows]
        assert torch.equal(module(x[rows]), whole[rows])
    module.keys = keys(8)  # windows of an image side by side, as Swin has them
    assert torch.equal(module(x.reshape(40, 7)).view(8, 5, 7), whole)
    assert torch.equal(module.eval()(x), x)


def test_other_rows_than_were_told_are_refused():
    module = layer()
    with pytest.raises(ValueError, match="8 rows"):
        module(torch.ones(8, 2))
    module.keys = keys(3)
    with pytest.raises(ValueError, match="8 rows"):
        module(torch.ones(8, 2))


def test_names_and_modes_of_a_side_stay():
    side = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.0)))
    side.train()
    side[1].eval()
    names = list(side.state_dict())
    row_dropout.install(side)
    assert list(side.state_dict()) == names
    assert [type(m).__name__ for m in (side[1], side[2][0])] == ["RowDropout", "Dropout"]
    assert not side[1].training
    assert row_dropout.installed(side) == [side[1]]


@pytest.mark.parametrize(
    ("training", "decides"),
    [
        ({}, False),
        ({"image_tuning": "frozen"}, False),
        ({"image_tuning": "full"}, True),
        ({"gene_tuning": "full"}, True),
        ({"image_projection": "transformer"}, True),
        ({"frozen_trunks": "train"}, True),
        ({"augmentation_draws": "per_batch"}, True),
    ],
)
def test_how_a_batch_is_shared_decides_only_where_draws_are_torchs(training, decides):
    machine = machine_options(resolve_training(training).as_dict())
    assert ("micro_batch" not in machine) == decides
    assert ("devices" not in machine) == decides
    assert {"loader_workers", "loggers", "activation_checkpointing"} <= set(machine)

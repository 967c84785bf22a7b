"""What fits the card is measured; there is none here, so its memory errors are made up."""

import dataclasses
import logging

import pytest
import torch
from test_pair import VIT_SPEC, make_batch, make_pair

from pairscape.core.errors import InputError
from pairscape.pretrain import card_memory, processes, training_loop

ROWS = 7
ONE = processes.World(0, 1, torch.device("cpu"))


def make(**training):
    module = make_pair(VIT_SPEC, **training)
    torch.manual_seed(4)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.1)
    training_loop.set_up(module, ONE)
    return module.train()


def gradients(module, step=4):
    """The gradients of a step, dropout and all, as the optimiser would see them."""
    batch = make_batch(ROWS, stored=False)
    draw = training_loop.draws(module, ROWS, ONE, 1, step)
    card_memory.fit_micro_batch(module, batch, ROWS, ONE, draw)
    optimizer = training_loop.make_optimizer(module)
    training_loop.train_step(module, optimizer, batch, ROWS, ONE, 1, step)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}


def assert_same(found, expected):
    whole = float(torch.cat([value.flatten() for value in expected.values()]).norm())
    assert max(float((found[n] - v).norm()) for n, v in expected.items()) < 1e-5 * whole


def test_dropout_and_all_the_gradient_is_the_same_for_any_micro_batch():
    whole = gradients(make())
    for rows in (1, 3):
        assert_same(gradients(make(micro_batch=rows)), whole)
    with pytest.raises(AssertionError):  # what drops out does make a difference
        assert_same(gradients(make(), step=5), whole)


def test_blocks_that_run_twice_have_the_gradient_of_those_that_are_kept():
    runs = []
    module = make(activation_checkpointing=True)
    module.images.tower.model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    found = gradients(module)
    assert len(runs) == 2
    assert_same(found, gradients(make()))
    first = [v for n, v in found.items() if "blocks.0" in n]
    assert all(bool(value.any()) for value in first)


def test_an_encoder_that_cannot_run_its_blocks_twice_is_refused(monkeypatch):
    from timm.models.vision_transformer import VisionTransformer

    monkeypatch.delattr(VisionTransformer, "set_grad_checkpointing")
    with pytest.raises(InputError, match=r"training.activation_checkpointing: found true, for an"):
        make(activation_checkpointing=True)


def small_card(monkeypatch, module, most):
    """A card that holds ``most`` images at a time with what is kept for the way back."""
    monkeypatch.setattr(card_memory, "MEASURED_ON", ("cpu",))

    def check(side, inputs):
        if torch.is_grad_enabled() and len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    module.images.register_forward_pre_hook(check)
    return module


@pytest.mark.parametrize(("most", "rows"), [(7, None), (6, 3), (3, 3), (2, 1)])
def test_a_step_that_is_too_large_is_halved_until_it_fits(monkeypatch, caplog, most, rows):
    logging.getLogger("pairscape").propagate = True
    expected = gradients(make())
    module = small_card(monkeypatch, make(), most)
    with caplog.at_level("INFO", "pairscape"):
        found = gradients(module)
    assert module.training_options.micro_batch == rows
    assert_same(found, expected)
    told = f"7 pairs at a time are too many for the card: micro_batch becomes {rows}; the gradient"
    assert (told in caplog.text) == (rows is not None)


def test_measuring_changes_nothing_of_the_run(monkeypatch):
    """Batch statistics, gradients and draws are those of a run that wasn't measured."""
    expected = make()
    gradients(expected)
    module = small_card(monkeypatch, make(), 100)
    gradients(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_where_one_pair_does_not_fit_all_processes_say_so(monkeypatch):
    module = small_card(monkeypatch, make(), 0)
    with pytest.raises(card_memory.TooSmallError):
        gradients(module)


def test_what_does_not_fit_another_process_does_not_fit(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Two(processes.World):
        def highest(self, mine):
            batches_left.pop()
            return [1.0 if batches_left else mine[0]]

    batches_left = [1, 2]
    monkeypatch.setattr(card_memory, "MEASURED_ON", ("cpu",))
    module = make()
    draw = training_loop.draws(module, ROWS, ONE, 1, 0)
    world = Two(0, 2, torch.device("cpu"))
    card_memory.fit_micro_batch(module, make_batch(ROWS, stored=False), ROWS, world, draw)
    assert module.training_options.micro_batch == 2  # half of its share of 4


def test_another_fault_than_memory_is_not_taken_for_it(monkeypatch):
    module = small_card(monkeypatch, make(), 100)

    def fault(side, inputs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    module.images.register_forward_pre_hook(fault)
    with pytest.raises(RuntimeError, match="shapes"):
        gradients(module)

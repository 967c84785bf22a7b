"""The formula of the golden references: its check values, and the sums stored with them."""

import golden
import numpy as np
import pytest


def test_the_formula_gives_its_published_check_values():
    assert np.allclose(
        golden.entry("norm.weight", (4,), "n", "a"),
        [-0.01568598, 0.00564019, -0.00440898, -0.00251171],
        atol=1e-8,
    )
    assert np.allclose(
        golden.entry("blocks.0.attn.qkv.weight", (3, 2), "n", "a"),
        [[-0.01771986, -0.01564203], [-0.00726872, 0.00751654], [0.0228852, 0.01101568]],
        atol=1e-8,
    )


@pytest.mark.parametrize("weight_set", golden.WEIGHT_SETS)
def test_names_and_weights_have_the_stored_sums(shared, weight_set):
    facts, _ = golden.read(shared, "ctranspath")
    lines = facts["state_dict"]
    assert golden.names_shapes_sha256((n, s) for n, s, *_ in lines) == facts["names_shapes_sha256"]
    found = golden.weights_sha256(golden.state(lines, weight_set))
    assert found == facts[f"weights_sha256_{weight_set}"]


def test_a_seed_is_taken_from_the_statement_and_one_not_stated_is_told():
    facts = {"name": "one", "input": {"images": "g = Generator(PCG64(41)); the rest in words"}}
    assert golden.seed(facts, "images") == 41
    with pytest.raises(AssertionError, match=r"one\.json, input: no tokens; it has images"):
        golden.seed(facts, "tokens")
    with pytest.raises(AssertionError, match=r"one\.json, input, images: .* isn't stated in 'g = "):
        golden.inputs(facts, "images")

"""Encoders' files: finding, reading and refusing them, variants, controls; and the heads' numbers."""

from pathlib import Path

import golden
import pytest
import torch
import yaml
from torch import nn

from pairscape.audit import protocols
from pairscape.core.errors import InputError
from pairscape.encoders import specs

CONFIG = Path(__file__).parents[2] / "config" / "encoders"
ALL = [(kind, name) for kind in specs.KINDS for name in specs.list_encoders(CONFIG, kind)]


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_encoder_has_the_keys_of_the_example(kind, name):
    example = specs.read_encoder(
        CONFIG, kind, {"image": "tf_efficientnet_lite0", "gene": "mlp"}[kind]
    )
    spec = specs.read_encoder(CONFIG, kind, name)
    assert set(example) <= set(spec)
    assert [key for key in spec if key in example] == list(example), "keys in another order"


def test_every_encoder_file_follows_the_schema():
    found = specs.read_encoders(CONFIG)
    assert {(kind, name) for kind in found for name in found[kind]} == set(ALL)


def test_titles_tell_encoders_apart():
    for kind in specs.KINDS:
        titles = [spec["title"] for spec in specs.read_encoders(CONFIG)[kind].values()]
        assert len(set(titles)) == len(titles)


def test_the_encoders_of_the_benchmark_can_be_built():
    published = {
        "image": {"uni", "gigapath", "h0_mini", "conch", "ctranspath", "h_optimus_0", "uni2_h"},
        "gene": {"mlp", "drvi", "nicheformer", "scfoundation"},
    }
    for kind, names in published.items():
        for name in names:
            specs.require_built(specs.read_encoder(CONFIG, kind, name), name)


def test_a_misspelt_encoder_is_refused_by_name():
    with pytest.raises(InputError) as error:
        specs.read_encoder(CONFIG, "image", "gigapth")
    assert "did you mean gigapath?" in one_line(error)


# Variants ----------------------------------------------------------------------------------------

BASE = {
    "kind": "image",
    "title": "Base",
    "built": True,
    "input": {"crop_px": 224, "mean": [0.5, 0.5, 0.5]},
    "weights": {"source": "url", "location": "u", "file": "f.bin", "layout": "same"},
    "fingerprint": None,
}


@pytest.fixture
def folder(tmp_path):
    """Write encoders' files: ``folder(name, content)``, under ``folder.root``."""

    def write(name, content):
        (tmp_path / "image").mkdir(exist_ok=True)
        (tmp_path / "image" / f"{name}.yaml").write_text(yaml.safe_dump(content))

    write.root = tmp_path
    return write


def test_an_encoder_that_is_only_declared_is_refused(folder):
    folder("plain", {**BASE, "built": False})
    spec = specs.read_encoder(folder.root, "image", "plain")
    with pytest.raises(InputError) as error:
        specs.require_built(spec, folder.root / "image" / "plain.yaml")
    assert "plain.yaml: built" in one_line(error)


def test_a_variant_is_its_base_with_what_it_changes(folder):
    folder("base", BASE)
    change = {"title": "Changed", "input": {"crop_px": 96}, "fingerprint": {"values": [1]}}
    folder("changed", {"variant_of": "base", **change})
    spec = specs.read_encoder(folder.root, "image", "changed")
    assert spec == {
        **BASE,
        **change,
        "input": {"crop_px": 96, "mean": [0.5, 0.5, 0.5]},
        "variant_of": "base",
        "weights_of": "base",
    }
    assert specs.read_encoder(folder.root, "image", "base") == BASE
    assert specs.spec_sha256(spec) != specs.spec_sha256(BASE)


@pytest.mark.parametrize(
    ("change", "weights_of"),
    [
        ({}, "base"),
        ({"weights": {"layout": "other"}}, "base"),
        ({"weights": {"file": "g.bin"}}, "variant"),
        ({"weights": {"location": "elsewhere"}}, "variant"),
        ({"weights": None}, "variant"),
    ],
)
def test_a_variant_shares_the_weights_of_its_base_unless_it_names_others(
    folder, change, weights_of
):
    folder("base", BASE)
    folder("variant", {"variant_of": "base", "title": "Variant", **change})
    spec = specs.read_encoder(folder.root, "image", "variant")
    assert specs.weights_name(spec, "variant") == weights_of
    assert specs.weights_name(BASE, "base") == "base"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"variant_of": "nobody", "title": "V"}, "variant_of: found 'nobody'"),
        ({"variant_of": "odd", "title": "V"}, "variant_of: found 'odd'"),
        ({"variant_of": "other", "title": "V"}, "write variant_of: base"),
        ({"variant_of": "base"}, "title: found nothing"),
        ({"variant_of": "base", "title": "V", "kind": "gene"}, "kind: found 'gene'"),
        (["a list"], "kind: found list"),
    ],
)
def test_an_odd_variant_is_refused_with_one_line(folder, content, said):
    folder("base", BASE)
    folder("other", {"variant_of": "base", "title": "Other"})
    folder("odd", content)
    with pytest.raises(InputError) as error:
        specs.read_encoder(folder.root, "image", "odd")
    assert said in one_line(error)
    assert "odd.yaml" in str(error.value)


def test_image_controls_say_what_they_are():
    controls = {
        name: spec["control"]
        for name, spec in specs.read_encoders(CONFIG)["image"].items()
        if "control" in spec
    }
    assert set(controls) == {
        "expression",
        "tf_efficientnet_lite0_untrained",
        "tf_efficientnet_lite0_shuffled",
        "tf_efficientnet_lite0_surroundings",
        "coordinates",
        "colours",
    }
    kinds = ("floor: ", "ceiling: ", "coordinates: ", "colours: ", "surroundings: ")
    assert all(words.startswith(kinds) for words in controls.values())


def test_no_image_encoder_but_a_control_runs_without_weights():
    without = protocols.FLAGS["untrained_ctranspath"].encoders["image"].values()
    for name, spec in specs.read_encoders(CONFIG)["image"].items():
        assert spec["weights"] is not None or "control" in spec or name in without, name


# Heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_set", ["a", "b"])
def test_heads_give_the_golden_numbers(shared, weight_set):
    from pairscape.pretrain import heads

    facts, arrays = golden.read(shared, "hescape_heads")

    def check(module: nn.Module, part: str, prefix: str, inputs: torch.Tensor):
        state = golden.state(facts[f"state_dict_{part}"], weight_set)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("num_batches_tracked" in name for name in missing)
        with torch.inference_mode():
            found = module.eval()(inputs).numpy()
        assert golden.largest_difference(found, arrays[f"{part}_{weight_set}"]) < golden.ATOL

    features = golden.inputs(facts, "head_features")
    check(heads.projection("linear", 768, 128, 0.2), "img_linear", "linear.", features)
    check(heads.projection("mlp", 768, 128, 0.2), "img_mlp", "mlp.", features)
    check(heads.projection("mlp", 512, 128, 0.2), "gene_mlp", "mlp.", features[:, :512])
    check(heads.projection("linear", 512, 128, 0.2), "gene_linear", "proj.", features[:, :512])


def test_the_mlp_head_on_uni_has_the_published_parameters():
    from pairscape.pretrain import heads

    head = heads.projection("mlp", 1024, 128, 0.2)
    assert sum(p.numel() for p in head.parameters()) == 295_808

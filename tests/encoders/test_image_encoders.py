"""Image encoders: the numbers that they give, strict loading of weights, controls."""

import copy
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.encoders import image_encoders, specs, weights

CONFIG = Path(__file__).parents[2] / "config" / "encoders"
LITES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
TRANSFORMERS = ("uni", "uni2_h", "gigapath", "h_optimus_0", "h0_mini")
GIANTS = ("uni2_h", "gigapath", "h_optimus_0")


def read(name: str) -> dict:
    return copy.deepcopy(specs.read_encoder(CONFIG, "image", name))


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def on_meta(spec) -> nn.Module:
    with torch.device("meta"):
        return image_encoders.BUILDERS[spec["builder"]](spec)


def load_golden(monkeypatch, name, lines, weight_set, **changes):
    """The encoder with the golden weights, given in the official layout to the usual loader."""
    spec = {**read(name), **changes}
    entries = golden.state(lines, weight_set)
    if spec["builder"] == "ctranspath":
        entries = {"model": entries | ctranspath_tables(spec)}
    monkeypatch.setattr(image_encoders, "read_entries", lambda spec, path: entries)
    return image_encoders.build(spec, "golden")


def ctranspath_tables(spec) -> dict:
    """What the official file stores and today's timm computes, and the integer counters."""
    computed = dict(image_encoders.BUILDERS["ctranspath"](spec).named_buffers())
    return {name: value for name, value in computed.items() if "running_" not in name}


def check(found: torch.Tensor, expected: np.ndarray, tolerance: float = golden.ATOL):
    assert golden.largest_difference(found, expected) <= tolerance


# The golden references ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_names_and_shapes_are_those_of_the_official_file(shared, name):
    facts, _ = golden.read(shared, name)
    found = on_meta(read(name)).state_dict()
    assert {key: list(value.shape) for key, value in found.items()} == {
        key: shape for key, shape, *_ in facts["state_dict"]
    }
    named = ((key, tuple(value.shape)) for key, value in found.items())
    assert golden.names_shapes_sha256(named) == facts["names_shapes_sha256"]


@pytest.mark.parametrize("name", ["conch", "conch_published"])
def test_conch_takes_its_image_side_out_of_the_whole_official_file(shared, name):
    facts, _ = golden.read(shared, "conch")
    lines = facts["state_dict_visual"] + facts["state_dict_full_model_other_than_visual"]
    assert len(lines) == facts["full_model_n_entries"]
    entries = {key: torch.empty(shape, device="meta") for key, shape, *_ in lines}
    model = on_meta(read(name))
    found = image_encoders.LAYOUTS["conch_visual"](entries, "file", model)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    wrapped = {"state_dict": {f"module.{key}": value for key, value in entries.items()}}
    assert set(image_encoders.LAYOUTS["conch_visual"](wrapped, "file", model)) == set(found)


@pytest.mark.slow
@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
@pytest.mark.parametrize("name", ["uni", "h0_mini"])
def test_a_whole_transformer_gives_the_golden_numbers(shared, monkeypatch, name, weight_set):
    facts, arrays = golden.read(shared, name)
    tower = load_golden(monkeypatch, name, facts["state_dict"], weight_set)
    with torch.inference_mode():
        tokens = tower.tokens(golden.inputs(facts, "images"))
        check(tokens[:, :8], arrays[f"tokens_first8_{weight_set}"])
        check(tokens[:, -2:], arrays[f"tokens_last2_{weight_set}"])
        check(tokens[:, 0], arrays[f"embedding_{weight_set}"])
        # An image of another size, for the resampled positions, and the embedding as it is used.
        check(tower(golden.inputs(facts, "dynamic")), arrays[f"embedding_dynamic_{weight_set}"])


@pytest.mark.slow
@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
@pytest.mark.parametrize("name", GIANTS)
def test_the_first_blocks_of_a_giant_give_the_golden_numbers(shared, monkeypatch, name, weight_set):
    facts, arrays = golden.read(shared, name)
    spec = read(name)
    depth = facts["golden_depth"]
    arguments = {**spec["arguments"], "depth": depth}
    kept = [
        line
        for line in facts["state_dict"]
        if not line[0].startswith("blocks.") or int(line[0].split(".")[1]) < depth
    ]
    parameters = sum(int(np.prod(shape)) for _, shape, *_ in kept)
    tower = load_golden(
        monkeypatch, name, kept, weight_set, arguments=arguments, parameters=parameters
    )
    assert golden.weights_sha256(tower.model.state_dict()) == facts[f"weights_sha256_{weight_set}"]
    images = golden.inputs(facts, "images")
    with torch.inference_mode():
        tokens = tower.tokens(images)
        check(tokens[:, :8], arrays[f"tokens_first8_{weight_set}"], golden.DEEP_ATOL)
        check(tokens[:, -2:], arrays[f"tokens_last2_{weight_set}"], golden.DEEP_ATOL)
        check(tower(images), arrays[f"embedding_{weight_set}"], golden.DEEP_ATOL)


@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
def test_ctranspath_gives_the_golden_numbers_in_every_stage(shared, monkeypatch, weight_set):
    facts, arrays = golden.read(shared, "ctranspath")
    tower = load_golden(monkeypatch, "ctranspath", facts["state_dict"], weight_set)
    seen = {}

    def keep(key):
        return lambda module, inputs, output: seen.update({key: output.flatten(1, 2)[:, :4]})

    tower.model.patch_embed.register_forward_hook(keep("patch_embed"))
    for stage in range(3):
        tower.model.layers[stage + 1].downsample.register_forward_hook(keep(f"layer{stage}"))
    images = golden.inputs(facts, "images")
    with torch.inference_mode():
        check(tower(images), arrays[f"embedding_{weight_set}"])
        check(tower.tokens(images)[:, :8], arrays[f"tokens_first8_{weight_set}"])
    parts = [f"{key}_first4_{weight_set}" for key in seen]
    stored = [part for part in parts if part in arrays]
    assert len(stored) == (4 if weight_set == "a" else 0), "the golden holds stages of set A alone"
    for key, found in seen.items():
        if weight_set == "a":
            check(found, arrays[f"{key}_first4_a"])


@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
def test_conch_gives_the_golden_numbers(shared, monkeypatch, weight_set):
    facts, arrays = golden.read(shared, "conch")
    lines = facts["state_dict_visual"]
    tower = load_golden(monkeypatch, "conch", lines, weight_set)
    assert (tower.width, tower.token_width) == (512, 768)
    seen = []
    tower.model.trunk.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        pooled = tower(golden.inputs(facts, "images_448"))
        check(pooled, arrays[f"attn_pool_no_projection_448_{weight_set}"])
        (tokens,) = seen
        check(tokens[:, 0], arrays[f"trunk_cls_448_{weight_set}"])
        check(tokens[:, :4], arrays[f"trunk_tokens_first4_448_{weight_set}"])
        # What the file holds beyond the tower.
        shape = next(shape for key, shape, *_ in lines if key == "visual.proj_contrast")
        projected = pooled @ golden.entry("visual.proj_contrast", shape, "n", weight_set)
        check(projected, arrays[f"attn_pool_projected_448_{weight_set}"])


@pytest.mark.slow
@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
def test_what_hescape_takes_for_conch_gives_the_golden_numbers(shared, monkeypatch, weight_set):
    facts, arrays = golden.read(shared, "conch")
    tower = load_golden(monkeypatch, "conch_published", facts["state_dict_visual"], weight_set)
    assert tower.width == tower.token_width == 768
    with torch.inference_mode():
        tokens = tower.tokens(golden.inputs(facts, "images_480"))
    assert tokens.shape == (1, 901, 768)
    check(tokens[:, 0], arrays[f"trunk_cls_480_{weight_set}"])
    check(tokens[:, -2:], arrays[f"trunk_tokens_last2_480_{weight_set}"])


# Small relatives of every family, for what needs no golden numbers -------------------------------


def shrunk(name: str) -> dict:
    """An encoder with its own builder and layout, so small that its files are written in no time."""
    spec = read(name)
    if spec["builder"] == "ctranspath":
        spec["arguments"] |= {"embed_dim": 16, "depths": [1, 1, 1, 2], "num_heads": [1, 1, 1, 1]}
        spec["width"] = 128
    elif spec["arguments"].get("architecture", "").startswith("vit"):
        spec["arguments"] |= {"depth": 1, "embed_dim": 32, "num_heads": 2}
        if spec["builder"] == "conch":
            spec["arguments"]["pooler_heads"] = 2
            spec["arguments"]["img_size"] = 64
            spec["input"] |= {"resize_px": 64, "crop_px": 64}
        spec["width"] = 16 if spec["output"] == "pooled" and spec["builder"] == "conch" else 32
    spec["parameters"] = sum(parameter.numel() for parameter in on_meta(spec).parameters())
    if spec["weights"]:
        spec["weights"]["sha256"] = None
    return spec


def official_entries(spec) -> dict:
    """The entries of a file in the official layout of a (small) encoder."""
    if spec["weights"]["source"] == "package":
        return dict(torch.load(weights.find_weights(spec), weights_only=True))
    tower = image_encoders.build(spec, None)
    entries = {name: value.clone() for name, value in tower.model.state_dict().items()}
    if spec["builder"] == "conch":
        entries = {f"visual.{name}": value for name, value in entries.items()}
        return entries | {"visual.proj_contrast": torch.zeros(2, 2), "text.x": torch.zeros(1)}
    if spec["builder"] == "ctranspath":
        old = {}
        for name, value in entries.items():
            parts = name.split(".")
            if parts[0] == "layers" and parts[2] == "downsample":
                parts[1] = str(int(parts[1]) - 1)
            old[".".join(parts)] = value
        return {"model": old | ctranspath_tables(spec)}
    return entries


# Per family: a name in the official file, of a floating-point entry that the encoder uses.
FAMILIES = {
    "tf_efficientnet_lite0": "_blocks.3._bn1.weight",
    "tf_efficientnet_lite0_surroundings": "_blocks.3._bn1.weight",
    "tf_efficientnet_lite0_64px": "_blocks.3._bn1.weight",
    "tf_efficientnet_lite1": "_blocks.3._bn1.weight",
    "uni": "blocks.0.norm1.weight",
    "uni2_h": "reg_token",
    "gigapath": "blocks.0.mlp.fc1.weight",
    "h_optimus_0": "blocks.0.ls2.gamma",
    "h0_mini": "pos_embed",
    "conch": "visual.attn_pool_contrast.query",
    "conch_published": "visual.trunk.norm.bias",
    "ctranspath": "layers.1.downsample.norm.weight",
}


def test_every_image_encoder_with_weights_is_tested_with_broken_ones():
    with_weights = {name for name in specs.list_encoders(CONFIG, "image") if read(name)["weights"]}
    shuffled = {name for name in with_weights if read(name).get("shuffle_pairs")}
    assert with_weights - shuffled == set(FAMILIES)


@pytest.fixture(scope="module")
def whole():
    """Per encoder the small encoder and its whole entries, made once."""
    made = {}

    def get(name):
        if name not in made:
            spec = shrunk(name)
            made[name] = spec, official_entries(spec)
        spec, entries = made[name]
        inner = entries.get("model") if spec["builder"] == "ctranspath" else entries
        return copy.deepcopy(spec), entries, dict(inner)

    return get


def saved(folder, spec, entries, wrapper=None):
    if wrapper or spec["builder"] == "ctranspath":
        entries = {wrapper or "model": entries}
    path = folder / "weights.pth"
    torch.save(entries, path)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_file_loads_to_the_model_that_wrote_it(tmp_path, whole, name):
    spec, _, entries = whole(name)
    tower = image_encoders.build(spec, saved(tmp_path, spec, entries))
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    if spec["weights"]["source"] != "package":
        other = image_encoders.build(spec, None)
        assert weights.state_sha256(tower) == weights.state_sha256(other)
    size = spec["input"]["crop_px"]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, tokens = tower(images), tower.tokens(images)
    assert found.shape == (2, spec["width"])
    assert tokens.shape[::2] == (2, tower.token_width)
    if name in TRANSFORMERS or name == "conch_published":
        assert torch.allclose(tokens[:, 0], found, atol=1e-6)
    elif spec["builder"] != "conch":
        assert torch.allclose(tokens.mean(1), found, atol=1e-5)


def _missing(entries, name):
    del entries[name]


def _renamed(entries, name):
    entries[f"{name}_"] = entries.pop(name)


def _reshaped(entries, name):
    entries[name] = torch.zeros(7)


def _added(entries, name):
    entries["extra.weight"] = torch.zeros(1)


def _not_finite(entries, name):
    entries[name] = torch.full_like(entries[name], float("nan"))


def _no_tensor(entries, name):
    entries[name] = 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_missing, "1 entries missing, 0 unknown"),
        (_renamed, "1 entries missing, 1 unknown"),
        (_reshaped, "found (7,)"),
        (_added, "extra.weight: found 0 entries missing, 1 unknown"),
        (_not_finite, "numbers that aren't finite"),
        (_no_tensor, "found 3"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_weights_stop_with_one_line(tmp_path, whole, name, change, said):
    spec, _, entries = whole(name)
    change(entries, FAMILIES[name])
    path = saved(tmp_path, spec, entries)
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, path)
    assert said in one_line(error)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_wrapper_is_taken_off_where_it_belongs_and_nowhere_else(tmp_path, whole, name):
    spec, _, entries = whole(name)
    if spec["builder"] == "ctranspath":
        path = tmp_path / "bare.pth"
        torch.save(entries, path)
    else:
        path = saved(tmp_path, spec, entries, "model")
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, path)
    assert one_line(error)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_no_state_dict_stops_with_one_line(tmp_path, whole, name):
    spec, _, _ = whole(name)
    path = tmp_path / "weights.pth"
    for content in ([torch.zeros(3)], torch.zeros(3), {}):
        torch.save(content, path)
        with pytest.raises(InputError) as error:
            image_encoders.build(spec, path)
        assert str(path) in one_line(error)
    path.write_bytes(b"not a weights file")
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, path)
    assert "fetch the file again" in one_line(error)


def test_ctranspath_does_without_stored_masks_but_refuses_other_ones(tmp_path, whole):
    spec, _, entries = whole("ctranspath")
    assert "layers.3.blocks.1.attn.relative_position_index" in entries
    masks = [name for name in entries if name.endswith("attn_mask")]
    without = {name: value for name, value in entries.items() if name not in masks}
    image_encoders.build(spec, saved(tmp_path, spec, without))
    table = "layers.0.blocks.0.attn.relative_position_index"
    entries[table] = entries[table].T.contiguous()
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, saved(tmp_path, spec, entries))
    assert f"entry {table}: found another table" in one_line(error)


def test_a_declared_checksum_is_held(tmp_path, whole):
    spec, _, entries = whole("uni")
    spec["weights"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="sha256"):
        image_encoders.build(spec, saved(tmp_path, spec, entries))


def test_a_wrong_parameter_count_is_refused_before_anything_is_made():
    spec = {**read("gigapath"), "parameters": 1_134_953_985}
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, None)
    assert "1,134,953,984" in one_line(error)


def test_a_wrong_width_is_refused(whole):
    spec, _, _ = whole("uni")
    tower = image_encoders.build(spec, None)
    with pytest.raises(InputError, match="width"):
        image_encoders.fingerprint(tower, {**spec, "width": 48})


def test_half_precision_weights_are_held_in_full_precision(tmp_path, whole):
    spec, _, entries = whole("h_optimus_0")
    path = saved(tmp_path, spec, {name: value.half() for name, value in entries.items()})
    tower = image_encoders.build(spec, path)
    assert {value.dtype for value in tower.state_dict().values()} == {torch.float32}
    assert torch.equal(tower.model.pos_embed, entries["pos_embed"].half().float())


# EfficientNet-Lite, the encoders whose weights are at hand ---------------------------------------


@pytest.mark.parametrize("name", LITES)
def test_the_weights_of_the_package_are_those_of_timm_by_order(name):
    import timm

    spec = read(name)
    path = weights.find_weights(spec)
    entries = torch.load(path, weights_only=True)
    tower = image_encoders.build(spec, path)
    reference = timm.create_model(name, pretrained=False)
    reference.load_state_dict(dict(zip(reference.state_dict(), entries.values(), strict=True)))
    reference.reset_classifier(0)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(tower(images), reference.eval()(images))


@pytest.mark.parametrize("name", LITES)
def test_the_same_weights_in_a_model_that_pads_differently_are_told_apart(name):
    spec = read(name)
    spec["arguments"]["architecture"] = name.removeprefix("tf_")
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, weights.find_weights(spec))
    assert "fingerprint" in one_line(error)


@pytest.mark.parametrize("name", LITES)
def test_a_fingerprint_is_the_same_in_any_number_of_threads(name):
    spec = read(name)
    tower = image_encoders.build(spec, weights.find_weights(spec))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(image_encoders.fingerprint(tower, spec))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", LITES)
def test_another_normalisation_is_told_apart(name):
    spec = read(name)
    spec["input"]["mean"] = [0.485, 0.456, 0.406]
    with pytest.raises(InputError, match="fingerprint"):
        image_encoders.build(spec, weights.find_weights(spec))


def test_the_weights_of_lite1_are_refused_for_lite0_and_the_other_way_round():
    one, other = (read(name) for name in LITES)
    for spec, foreign in ((one, other), (other, one)):
        path = weights.find_weights(foreign)
        spec["weights"]["sha256"] = None
        with pytest.raises(InputError) as error:
            image_encoders.build(spec, path)
        assert str(path) in one_line(error)


def test_a_file_without_the_classifier_is_refused(tmp_path, whole):
    spec, _, entries = whole("tf_efficientnet_lite0")
    del entries["_fc.bias"]
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, saved(tmp_path, spec, entries))
    assert "entry _fc.bias: found nothing" in one_line(error)


# Controls ----------------------------------------------------------------------------------------


def test_an_untrained_tower_is_a_function_of_its_seed_alone():
    spec = read("tf_efficientnet_lite0_untrained")
    before = torch.random.get_rng_state()
    first = image_encoders.build(spec, None)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again = image_encoders.build(spec, None)
    other = image_encoders.build({**spec, "untrained_seed": spec["untrained_seed"] + 1}, None)
    assert weights.state_sha256(first) == weights.state_sha256(again)
    assert weights.state_sha256(first) != weights.state_sha256(other)


def test_an_untrained_tower_tells_patches_apart():
    spec = read("tf_efficientnet_lite0_untrained")
    tower = image_encoders.build(spec, None)
    patches = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    patches[1:] //= 2
    patches[3] = patches[3].mean()
    with torch.inference_mode():
        found = tower(image_encoders.transform(spec)(list(patches)))
    assert torch.isfinite(found).all()
    unlike = torch.pdist(found) / found.norm(dim=1).mean()
    assert unlike.min() > 1e-3


def test_an_untrained_tower_takes_no_weights(tmp_path):
    spec = read("tf_efficientnet_lite0_untrained")
    with pytest.raises(InputError, match="has none"):
        image_encoders.build(spec, tmp_path / "weights.pth")


def test_shuffled_pairs_share_the_features_of_their_encoder():
    name = "tf_efficientnet_lite0_shuffled"
    base, spec = read("tf_efficientnet_lite0"), read(name)
    assert specs.features_name(spec, name) == "tf_efficientnet_lite0"
    assert specs.spec_sha256(spec) == specs.spec_sha256(base)
    assert image_encoders.BUILDERS[spec["builder"]] is image_encoders.BUILDERS[base["builder"]]
    untrained = read("tf_efficientnet_lite0_untrained")
    assert specs.features_name(untrained, "untrained") == "untrained"
    assert specs.spec_sha256(untrained) != specs.spec_sha256(base)


def test_expression_has_no_tower_to_build():
    with pytest.raises(InputError, match="builder"):
        image_encoders.build(read("expression"), None)


# From a patch to the input -----------------------------------------------------------------------


def test_the_transform_normalises_and_resizes_as_declared():
    spec = read("tf_efficientnet_lite0")
    spec["input"] |= {"resize_px": 64, "crop_px": 48, "mean": [0.1, 0.2, 0.3], "std": [0.5, 1, 2]}
    prepare = image_encoders.transform(spec)
    patch = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = (patch[8:56, 8:56] / 255 - spec["input"]["mean"]) / spec["input"]["std"]
    assert np.allclose(prepare([patch])[0].permute(1, 2, 0), expected, atol=1e-6)
    grey = np.full((200, 160, 3), 128, np.uint8)
    resized = prepare([grey])
    assert resized.shape == (1, 3, 48, 48)
    assert np.allclose(resized[0, 0], (128 / 255 - 0.1) / 0.5, atol=1e-6)


@pytest.mark.parametrize("img_size", [32, [32, 32]])
def test_ctranspath_takes_a_side_as_every_other_encoder_does(img_size):
    from pairscape.encoders.architectures import ctranspath

    arguments = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 0}
    spec = {"arguments": arguments | {"img_size": img_size, "depths": [1, 1, 1, 1]}}
    assert ctranspath.build(spec)(torch.zeros(1, 3, 32, 32)).shape == (1, 768)

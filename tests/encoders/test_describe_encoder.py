"""The file of an encoder that describe_encoder writes builds that encoder, and no other."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch

import describe_encoder
from pairscape.core.errors import InputError
from pairscape.encoders import image_encoders, specs

# timm's own models for tests: a network of a few thousand parameters each.
MODELS = {"test_vit": ("token", ["qkv", "proj"]), "test_resnet": ("avg", [])}


def save(folder, model, **arguments):
    torch.manual_seed(1)
    network = timm.create_model(model, pretrained=False, **arguments)
    path = folder / f"{model}.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


def call(folder, *words):
    describe_encoder.main([*map(str, words), "--encoders", str(folder / "encoders")])


@pytest.mark.parametrize("model", MODELS)
def test_what_is_written_builds_the_model_of_the_weights(tmp_path, capsys, model):
    network, path = save(tmp_path, model)
    call(tmp_path, path, "--architecture", model)
    pool, targets = MODELS[model]
    said = capsys.readouterr().err
    assert f"pool {pool}" in said
    found = specs.read_encoders(tmp_path / "encoders")["image"][model]
    assert found["finetuning"]["lora_targets"] == targets
    assert found["parameters"] < sum(one.numel() for one in network.parameters())
    tower = image_encoders.build(found, path)  # checksum, entries, parameters, fingerprint
    images = torch.rand(2, 3, found["input"]["crop_px"], found["input"]["crop_px"])
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(tower(images), expected)
    assert tower.width == expected.shape[1] == found["width"]


def test_a_file_is_never_written_over(tmp_path):
    _, path = save(tmp_path, "test_vit")
    call(tmp_path, path, "--architecture", "test_vit")
    before = (tmp_path / "encoders/image/test_vit.yaml").read_bytes()
    with pytest.raises(InputError, match="found an encoder of that name; give another --name"):
        call(tmp_path, path, "--architecture", "test_vit")
    assert (tmp_path / "encoders/image/test_vit.yaml").read_bytes() == before


def test_a_config_beside_the_weights_tells_the_architecture_and_the_input(tmp_path):
    _, path = save(tmp_path, "test_vit", num_classes=0)
    told = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    told |= {"input_size": [3, 160, 160], "num_classes": 0, "license": "cc-by-4.0"}
    config = {"architecture": "test_vit", "pretrained_cfg": told}
    (tmp_path / "config.json").write_text(json.dumps(config))
    call(tmp_path, path, "--name", "mine", "--title", "Mine")
    found = specs.read_encoder(tmp_path / "encoders", "image", "mine")
    assert found["title"] == "Mine"
    assert found["input"] == {
        "resize_px": 160,
        "crop_px": 160,
        **{key: told[key] for key in ("interpolation", "mean", "std")},
    }
    assert found["weights"]["layout"] == "same"
    assert found["weights"]["licence"] == "cc-by-4.0"


def test_a_timm_name_is_described_without_its_weights_where_that_is_asked_for(tmp_path):
    call(tmp_path, "resnet18.a1_in1k", "--weights", "none")
    found = specs.read_encoder(tmp_path / "encoders", "image", "resnet18_a1_in1k")
    assert found["weights"]["location"] == "timm/resnet18.a1_in1k"
    assert found["weights"]["licence"] == "apache-2.0"
    assert found["width"] == 512
    assert found["fingerprint"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resnet81"], "found 'resnet81'; did you mean resnet18?"),
        (["WEIGHTS"], "architecture: found no config.json beside it; give --architecture"),
        (["WEIGHTS", "--architecture", "test_resnet"], "entries missing"),
    ],
)
def test_a_wrong_model_is_refused_in_one_line(tmp_path, words, told):
    _, path = save(tmp_path, "test_vit")
    with pytest.raises(InputError) as refusal:
        call(tmp_path, *(path if word == "WEIGHTS" else word for word in words))
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "encoders").exists()


def test_a_repository_of_the_hub_tells_architecture_licence_and_gate(tmp_path, monkeypatch):
    import huggingface_hub

    class Api:
        def __init__(self, endpoint, token):
            pass

        def model_info(self, repo):
            assert repo == "someone/pathology"
            names = ["config.json", "pytorch_model.bin"]
            return SimpleNamespace(
                siblings=[SimpleNamespace(rfilename=name) for name in names],
                card_data={"license": "cc-by-nc-nd-4.0"},
                gated="manual",
            )

    config = tmp_path / "config.json"
    cfg = {"input_size": [3, 160, 160], "mean": [0.1] * 3, "std": [0.2] * 3, "num_classes": 0}
    told = {"architecture": "test_vit", "model_args": {"init_values": 1e-5}, "pretrained_cfg": cfg}
    config.write_text(json.dumps(told))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name, **_: str(config))
    call(tmp_path, "hf-hub:someone/pathology", "--weights", "none")
    found = specs.read_encoder(tmp_path / "encoders", "image", "pathology")
    place = {"source": "huggingface", "location": "someone/pathology", "file": "pytorch_model.bin"}
    expected = place | {"gated": True, "licence": "cc-by-nc-nd-4.0", "layout": "same"}
    assert {key: found["weights"][key] for key in expected} == expected
    assert found["arguments"] == {"architecture": "test_vit", "init_values": 1e-5, "num_classes": 0}

"""Reading and loading weights of any encoder: formats, wrappers, what is left out, checksums."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.encoders import weights


def spec(**changes):
    return {
        "title": "Tiny",
        "weights": {
            "source": "path",
            "file": "w.pth",
            "sha256": None,
            "extra_files": [],
            **changes,
        },
    }


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", ["torch", "old torch", "safetensors"])
def test_all_formats_give_the_same_entries(tmp_path, form):
    from safetensors.torch import save_file

    expected = model().state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(expected, path)
    else:
        torch.save(expected, path, _use_new_zipfile_serialization=form == "torch")
    found = weights.read_entries(spec(), path)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other = model().apply(lambda part: [nn.init.zeros_(of) for of in part.parameters()])
    weights.load_strictly(other, found, path)
    assert weights.state_sha256(other) == weights.state_sha256(model())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_bytes_that_are_no_weights_are_one_line(tmp_path, name):
    path = tmp_path / name
    torch.save(model().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (20, 300), np.uint8)
    for content in (b"", whole[:-200], *map(bytes, noise)):
        path.write_bytes(content)
        assert "fetch the file again" in refusal(weights.read_entries, spec(), path)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"weight": Harm()}, tmp_path / "w.pth")
    refusal(weights.read_entries, spec(), tmp_path / "w.pth")
    assert not (tmp_path / "harm").exists()


def test_the_checksum_comes_first(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(model().state_dict(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.read_entries(spec(sha256=right), path)
    assert "sha256" in refusal(weights.read_entries, spec(sha256="0" * 64), path)
    torch.save([torch.zeros(1)], path)
    assert "found list" in refusal(weights.read_entries, spec(), path)


def test_a_wrapper_is_named(tmp_path):
    said = refusal(weights.load_strictly, model(), {"model": model().state_dict()}, "w.pth")
    assert "model holds entries of its own" in said
    assert "7 entries missing, 1 unknown" in said


def test_a_refused_file_leaves_the_model_as_it_was():
    tiny = model()
    entries = {name: value + 1 for name, value in tiny.state_dict().items()}
    entries["1.bias"] = torch.tensor([0.0, float("inf")])
    assert "1.bias: found numbers that aren't finite" in refusal(
        weights.load_strictly, tiny, entries, "w.pth"
    )
    assert weights.state_sha256(tiny) == weights.state_sha256(model())


def test_only_what_is_named_is_left_out():
    entries = dict.fromkeys(("head.weight", "head.bias", "ahead.weight", "norm.weight"), 0)
    found = weights.leave_out(entries, {r"head\..*": "the classifier"}, "w.pth")
    assert list(found) == ["ahead.weight", "norm.weight"]


def test_extra_files_lie_beside_the_weights(tmp_path):
    needs = spec(extra_files=["genes.tsv"])
    path = tmp_path / "w.pth"
    assert str(tmp_path / "genes.tsv") in refusal(weights.find_extra, needs, path)
    (tmp_path / "genes.tsv").write_text("gene\n")
    assert weights.find_extra(needs, path) == {"genes.tsv": tmp_path / "genes.tsv"}


def test_the_checksum_of_a_state_tells_numbers_and_types_apart():
    found = {
        weights.state_sha256(model()),
        weights.state_sha256(model().bfloat16()),
        weights.state_sha256(model().double()),
    }
    assert len(found) == 3
    changed = model()
    with torch.no_grad():
        changed[0].bias[1] += 1e-3
    assert weights.state_sha256(changed) not in found


def lightning(path):
    torch.save({"state_dict": model().state_dict(), "pytorch-lightning_version": "2.4.0"}, path)


def lightning_with_its_options(path):
    import argparse

    options = {"hyper_parameters": argparse.Namespace(a=1), "pytorch-lightning_version": "2.4.0"}
    torch.save({"state_dict": model().state_dict(), **options}, path)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: torch.save(model(), path), "a pickled torch.nn.modules"),
        (lightning, "a checkpoint of PyTorch Lightning; save its `state_dict`"),
        (lightning_with_its_options, "a checkpoint of PyTorch Lightning; save its `state_dict`"),
        (lambda path: path.write_text("<!DOCTYPE html><p>403"), "a web page, not weights"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com"),
            "a pointer of Git LFS",
        ),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08\x00" * 20), "a gzip file"),
        (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "a zip archive without weights"),
        (lambda path: torch.save(torch.ones(3), path), "a file of named tensors"),
    ],
)
def test_a_file_that_isnt_named_tensors_is_called_what_it_is(tmp_path, write, told):
    """To fetch it again wouldn't help, so nobody is told to."""
    path = tmp_path / "w.bin"
    write(path)
    message = refusal(weights.read_entries, spec(), path)
    assert told in message
    assert "fetch the file again" not in message


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w.safetensors"])
def test_the_content_tells_the_format_not_the_name(tmp_path, name):
    from safetensors.torch import save_file

    expected = model().state_dict()
    for write in (save_file, torch.save):
        write(expected, tmp_path / name)
        found = weights.read_entries(spec(), tmp_path / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("dtype", "accepted"),
    [
        *((kind, True) for kind in (torch.float16, torch.bfloat16, torch.float64)),
        *((kind, False) for kind in (torch.int8, torch.uint8, torch.int32, torch.bool)),
        *((kind, False) for kind in (torch.float8_e4m3fn, torch.complex64)),
    ],
)
def test_numbers_of_another_kind_arent_weights(tmp_path, dtype, accepted):
    entries = model().state_dict()
    entries["0.weight"] = torch.ones(2, 3).to(dtype)
    if accepted:
        weights.load_strictly(model(), entries, "w.pth")
    else:
        words = str(dtype).removeprefix("torch.")
        said = refusal(weights.load_strictly, model(), entries, "w.pth")
        assert f"entry 0.weight: found {words}; the model needs float32" in said
    entries = model().state_dict()
    entries["1.num_batches_tracked"] = torch.tensor(1.5)
    assert "entry 1.num_batches_tracked" in refusal(weights.load_strictly, model(), entries, "w")

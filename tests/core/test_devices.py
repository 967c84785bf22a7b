"""A reserved GPU is used, or the program stops; there is none here, so drivers' answers are made up."""

import pytest
import torch

from pairscape.core import devices
from pairscape.core.errors import InputError
from pairscape.encoders import image_encoders
from pairscape.evaluate import ranks
from pairscape.pretrain import processes, training_loop

VARIABLES = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", devices.CHOICE)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_gpu_that_is_there_is_taken_unless_the_cpu_is_asked_for(monkeypatch):
    assert devices.pick().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick() == torch.device("cuda", 0)
    monkeypatch.setenv(devices.CHOICE, "cpu")
    assert devices.pick().type == "cpu"


@pytest.mark.parametrize(
    ("variable", "value", "is_reserved"),
    [
        ("CUDA_VISIBLE_DEVICES", "0", True),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937", True),
        ("CUDA_VISIBLE_DEVICES", "", False),
        ("CUDA_VISIBLE_DEVICES", "-1", False),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", False),
        ("SLURM_JOB_GPUS", "2,3", True),
        ("SLURM_STEP_GPUS", "1", True),
    ],
)
def test_a_reserved_gpu_without_a_driver_stops(monkeypatch, variable, value, is_reserved):
    monkeypatch.setenv(variable, value)
    if not is_reserved:
        assert not devices.has_gpu()
        return
    with pytest.raises(
        InputError, match=f"^environment: {variable}: found {value}, a reserved GPU"
    ):
        devices.has_gpu()
    monkeypatch.setenv(devices.CHOICE, "cpu")
    assert not devices.has_gpu()


def test_an_empty_list_of_devices_counts_before_what_slurm_says(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not devices.has_gpu()


@pytest.mark.parametrize(
    ("file", "cuda", "said", "remedy"),
    [
        (None, "13.2", "CUDA 13.2, and this machine has no NVIDIA driver", "driver 580.65.06 or"),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Wed Nov 30\nGCC version: 12",
            "13.2",
            "CUDA 13.2, and the driver is 525.60.13",
            "driver 580.65.06 or later, install by `make env CUDA=12` (driver 525.60.13 or later)",
        ),
        ("NVRM version: new words", "12.6", "the driver is unknown", "driver 525.60.13 or later"),
        (None, None, "built for no CUDA", "install torch with CUDA"),
    ],
)
def test_the_message_names_driver_and_cuda(monkeypatch, tmp_path, file, cuda, said, remedy):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "version")
    if file is not None:
        (tmp_path / "version").write_text(file)
    with pytest.raises(InputError) as caught:
        devices.pick()
    assert said in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [
        processes.start,
        image_encoders.batch_size,
        lambda: ranks.choose_device("auto", 10**6),
        lambda: ranks.choose_device("cuda", 1),
        lambda: training_loop.resolve_precision("auto"),
    ],
)
def test_whatever_computes_asks_the_same_question(monkeypatch, use):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(InputError, match="a reserved GPU that can't be used"):
        use()


def test_nothing_asks_torch_by_itself():
    folder = devices.Path(devices.__file__).parents[2]
    asking = [p.name for p in folder.rglob("*.py") if "cuda.is_available" in p.read_text()]
    assert asking == ["devices.py"]

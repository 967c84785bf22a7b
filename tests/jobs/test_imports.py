"""Which large packages each program loads: what it needs, where it needs it."""

import re
import shlex

import loaded
import plans
import pytest
from conftest import ROOT

# To read its flags and its options. Kernels are compiled when their module is imported.
TABLES = {"pyarrow"}
KERNELS = {"numba", "pyarrow", "scipy"}
AT_START = {
    "check_alignment": TABLES,
    "check_bundle": TABLES,
    "describe_dataset": TABLES,
    "export_pairs": KERNELS,
    "import_pairs": KERNELS,
    "index_datasets": TABLES,
    "pool_spots": KERNELS,
    "register_image": TABLES,
    "score_batch_effect": TABLES,
    "score_expression": TABLES,
    "show_calibration": TABLES,
    "show_spots": KERNELS,
    "write_report": TABLES,
    "write_spatialdata": TABLES,
    "write_viewer": KERNELS,
}

# To do the tiny run. anndata brings dask and zarr; a torch optimizer the compiler; timm torchvision,
# which brings it too, and wandb.
ANNDATA = {"anndata", "dask", "numba", "pandas", "pyarrow", "scipy", "zarr"}
IN_WORK = {
    "simulate_bundle": {"numba", "pandas", "pyarrow", "scipy"},
    "check_bundle": {"pandas", "pyarrow"},
    "check_alignment": {"matplotlib", "pandas", "pyarrow", "scipy", "skimage"},
    "pool_spots": ANNDATA | {"skimage", "spatialdata"},
    "show_spots": ANNDATA | {"matplotlib"},
    "select_genes": ANNDATA,
    "split_donors": set(),
    "export_pairs": ANNDATA | {"datasets"},
    "describe_dataset": {"datasets", "pandas", "pyarrow"},
    "embed_images": KERNELS | {"timm", "torch", "torch._dynamo", "torchvision", "wandb"},
    "pretrain": {"matplotlib", "pandas", "pyarrow", "torch", "torch._dynamo"},
    "index_datasets": TABLES,
    "score_retrieval": KERNELS | {"pandas"},
    "show_retrieval": {"matplotlib"},
    "write_report": TABLES,
}


def test_to_say_what_it_is_a_program_loads_next_to_nothing():
    programs = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
    assert len(programs) > 40
    found = loaded.by_call((program, ["--help"]) for program in programs)
    assert dict(zip(programs, found, strict=True)) == {
        program: (0, AT_START.get(program, set())) for program in programs
    }


@pytest.mark.slow
def test_to_do_its_work_a_program_loads_what_that_takes(undisturbed, tmp_path):
    import faults

    folder = faults.checkout(tmp_path / "copy")
    faults.copy_results(undisturbed, folder)
    flags = ("--forceall", "--printshellcmds", "--configfile", "tests/tiny.yaml")
    _, said = plans.plan(folder, *flags)
    calls = re.findall(r"python (?:\S*/)?(\w+)\.py (.*--log .*)$", said, re.MULTILINE)
    calls = {program: shlex.split(arguments) for program, arguments in calls}
    found = loaded.by_call(calls.items(), folder)
    assert dict(zip(calls, found, strict=True)) == {
        program: (0, packages) for program, packages in IN_WORK.items()
    }

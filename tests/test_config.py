"""A configuration is refused at parse time by the path of its key, with what is allowed."""

import copy

import pytest
import yaml
from conftest import ROOT

from pairscape.config import (
    check_config,
    dataset_samples,
    read_samples,
    read_schema,
    resolve_config,
)
from pairscape.errors import InputError

CONFIGS = ["config/config.yaml", "config/demo.yaml", "tests/tiny.yaml", "tests/real/config.yaml"]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def check(config, source="config/config.yaml"):
    resolved = resolve_config(config, source)
    samples = read_samples(resolved["samples"])
    check_config(resolved, source, samples)
    return resolved, samples


@pytest.mark.parametrize("path", CONFIGS)
def test_every_shipped_configuration_is_accepted(path):
    check(load(path), path)


@pytest.mark.parametrize("path", CONFIGS)
def test_defaults_fill_every_level_and_are_valid_themselves(path):
    resolved, _ = check(load(path), path)
    assert resolved["retrieval"]["recall_at"] == [1, 5, 10]
    for experiment in resolved["experiments"].values():
        assert experiment["training"]["betas"] == [0.9, 0.95]
    for preset in resolved["spots"].values():
        assert preset["min_qv"] == 20
    assert resolve_config(resolved, path) == resolved


def change(path, value):
    config = load("config/config.yaml")
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


BREAST = ("datasets", "human-breast-panel")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ("experiments", "benchmark", "image_encoders", 4),
            "unii",
            "config/config.yaml: experiments.benchmark.image_encoders[4]: found 'unii'; "
            "did you mean uni? allowed (image encoders): ",
        ),
        (("experiments", "benchmark", "datasets", 0), "human-5k", "did you mean human-5k-panel?"),
        (("experiments", "benchmark", "sedes"), [1], "unknown key 'sedes'; did you mean seeds?"),
        ((*BREAST, "split", "method"), "donors", "allowed: published, donor, listed"),
        ((*BREAST, "spots"), "square5", f"{'.'.join(BREAST)}.spots: found 'square5'"),
        ((*BREAST, "panel"), "human-brest-panel", "did you mean human-breast-panel?"),
        ((*BREAST, "samples"), ["TENX94", "TENX9"], f"{'.'.join(BREAST)}.samples: found 'TENX9'"),
        (("spots", "square55", "size_um"), -1, "spots.square55.size_um: found -1"),
        (("spots", "square55", "shape"), "circle", "spots.square55.centres: found none"),
        (("patches", "field112", "patch_pxs"), 1, "did you mean patch_px?"),
        (("datasets", "a/b"), {}, "a/b"),
        (("overlay_gene",), "ERBB22", "config/config.yaml: overlay_gene: found 'ERBB22'"),
        (
            ("datasets", "human-lung-healthy-panel", "split", "shared_donors"),
            None,
            "datasets.human-lung-healthy-panel.split",
        ),
    ],
)
def test_a_wrong_key_name_or_value_is_told_with_its_path(path, value, told):
    with pytest.raises(InputError) as caught:
        check(change(path, value))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    config = load("config/config.yaml")
    del config["datasets"]["human-breast-panel"]["panel"]
    with pytest.raises(InputError, match=r"datasets.human-breast-panel: found no key 'panel'"):
        check(config)


def test_a_sample_without_he_image_is_refused_in_a_dataset():
    config = load("tests/real/config.yaml")
    dataset = copy.deepcopy(config["datasets"]["her2st"])
    dataset["panel"] = "human-breast-panel"
    dataset["split"]["train"] = ["mouse_ileum_tiny"]
    config["datasets"]["ileum"] = dataset
    with pytest.raises(InputError, match="mouse_ileum_tiny, column he_image: found `none`"):
        check(config, "tests/real/config.yaml")


def test_the_sample_table_refuses_unknown_columns_and_repeated_samples(tmp_path):
    head = "sample\tpanel\tdonor\tsource\n"
    table = tmp_path / "samples.tsv"
    table.write_text(head + "a\tp\td\tlocal\na\tp\td\tlocal\n")
    with pytest.raises(InputError, match="line 3, column sample: found a for the second time"):
        read_samples(table)
    table.write_text("sample\tpanel\tdonor\tsource\torgans\na\tp\td\tlocal\tx\n")
    with pytest.raises(InputError, match="unknown key 'organs'; did you mean organ"):
        read_samples(table)
    table.write_text(head + "a b\tp\td\tlocal\n")
    with pytest.raises(InputError, match=r"line 2.sample: found 'a b'"):
        read_samples(table)
    table.write_text("sample\tpanel\tdonor\na\tp\td\n")
    with pytest.raises(InputError, match="column source"):
        read_samples(table)


def test_the_published_datasets_have_the_published_samples():
    resolved, samples = check(load("config/config.yaml"))
    counts = {name: len(dataset_samples(resolved, samples, name)) for name in resolved["datasets"]}
    assert counts == {
        "human-5k-panel": 7,
        "human-breast-panel": 5,
        "human-colon-panel": 5,
        "human-immuno-oncology-panel": 5,
        "human-lung-healthy-panel": 20,
        "human-multi-tissue-panel": 15,
    }


@pytest.mark.parametrize("name", ["config", "samples", "encoder"])
def test_schemas_describe_every_key_and_refuse_unknown_ones(name):
    def walk(schema, path):
        if schema.get("type") == "object" or "properties" in schema:
            assert "additionalProperties" in schema, f"{path} lets unknown keys through"
        for key, part in schema.get("properties", {}).items():
            described = "description" in part or "$ref" in part
            assert described, f"{path}.{key} has no description"
            walk(part, f"{path}.{key}")
        for key, part in schema.get("$defs", {}).items():
            walk(part, f"{path}.$defs.{key}")

    walk(read_schema(name), name)

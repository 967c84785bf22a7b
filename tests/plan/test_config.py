"""A configuration is refused at parse time by the path of its key, with what is allowed."""

import copy

import pytest
import yaml
from conftest import ROOT

from pairscape.acquire.samples import read_samples
from pairscape.core.errors import InputError
from pairscape.core.options import read_schema
from pairscape.plan import samples
from pairscape.plan.reading import read_plan, resolve_config

CONFIGS = [
    "config/config.yaml",
    "config/demo.yaml",
    "config/study.yaml",
    "tests/tiny.yaml",
    "tests/study.yaml",
    "tests/real/config.yaml",
]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def check(config, source="config/config.yaml"):
    return read_plan(config, source)


@pytest.mark.parametrize("path", CONFIGS)
def test_every_shipped_configuration_is_accepted(path):
    check(load(path), path)


@pytest.mark.parametrize("path", CONFIGS)
def test_defaults_fill_every_level_and_are_valid_themselves(path):
    plan = check(load(path), path)
    assert plan.config["retrieval"]["recall_at"] == [1, 5, 10]
    for experiment in plan.config["experiments"].values():
        second = 0.999 if experiment["flags"]["adam_betas"] else 0.95
        assert experiment["training"]["betas"] == [0.9, second]
    for name, preset in plan.config["spots"].items():
        assert preset["min_qv"] == (0 if name == "published55" else 20)
    assert resolve_config(plan.config, path) == plan.config


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
        ((*BREAST, "split", "method"), "donors", "allowed: published, donor, leave_one"),
        ((*BREAST, "spots"), "square5", f"{'.'.join(BREAST)}.spots: found 'square5'"),
        ((*BREAST, "panel"), "human-brest-panel", "did you mean human-breast-panel?"),
        ((*BREAST, "samples"), ["TENX94", "TENX9"], f"{'.'.join(BREAST)}.samples: found 'TENX9'"),
        (("spots", "square55", "size_um"), -1, "spots.square55.size_um: found -1"),
        (("spots", "square55", "shape"), "octagon", "allowed: square, hexagon, circle"),
        (("spots", "square55", "pitch_um"), 50, "spots.square55.pitch_um: found 50, so that spots"),
        (("spots", "square55", "lattice"), "hexagonal", "lattice: found hexagonal for squares"),
        (("spots", "square55", "frame"), "he_px", "allowed: xenium_um, he_pixels"),
        (("spots", "square55", "centres"), {"file": "a.tsv"}, "centres: found centres for squares"),
        (
            ("spots", "square55"),
            {"shape": "circle", "size_um": 55, "pitch_um": 100, "centres": {"file": "a.tsv"}},
            "spots.square55.pitch_um: found 100 beside given centres",
        ),
        (
            ("spots", "square55"),
            {"shape": "hexagon", "size_um": 55, "pitch_um": 100},
            "spots.square55.pitch_um: found 100 for hexagons of 55",
        ),
        (("patches", "field112", "patch_pxs"), 1, "did you mean patch_px?"),
        (("datasets", "a/b"), {}, "a/b"),
        (
            ("batch_effect", "pair", "gene_encoder"),
            "drvy",
            "batch_effect.pair.gene_encoder: found ",
        ),
        (
            ("calibration",),
            {"panel": "human-brest-panel"},
            "calibration.panel: found 'human-brest-panel'; did you mean human-breast-panel?",
        ),
        (
            ("calibration",),
            {"gene_encoder": "drvi"},
            "calibration.gene_encoder: found drvi, learned from dataset; name one that is learned",
        ),
        (("batch_effect", "recall_at"), 7, "batch_effect.recall_at: found 7; allowed (retrieval."),
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


def test_a_sample_without_he_image_is_refused_for_spots_that_need_one():
    config = load("tests/real/config.yaml")
    config["spots"]["square55"]["min_tissue"] = 0.2
    with pytest.raises(InputError, match=r"pool_also\[0\].spots: found square55, which needs an H"):
        check(config, "tests/real/config.yaml")


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


LUNG = "human-lung-healthy-panel"
FOLD = {"method": "leave_one_donor_out", "fold": 2}


def test_folds_and_other_splits_use_the_shards_of_a_dataset():
    config = load("config/config.yaml")
    config["datasets"]["fold2"] = {"shards_of": LUNG, "split": FOLD}
    config["datasets"]["few"] = {
        "shards_of": LUNG,
        "split": {"method": "listed", "train": ["NCBI864"], "test": ["NCBI865"]},
    }
    plan = check(config)
    assert plan.config["datasets"]["fold2"]["panel"] == LUNG
    assert plan.config["datasets"]["fold2"]["spots"] == "square55"
    assert list(plan.datasets["fold2"].samples) == list(plan.datasets[LUNG].samples)
    assert list(plan.datasets["few"].samples) == ["NCBI864", "NCBI865"]
    assert resolve_config(plan.config, "x") == plan.config


@pytest.mark.parametrize(
    ("samples", "select", "told"),
    [
        (["TENX95"], "last", "has no sample in its split test; put one into test"),
        (["NCBI783"], "last", "has no sample in its split train; put one into train"),
        (["TENX95", "NCBI783"], "best_val_loss", "split val; put one into val"),
        (["TENX95", "NCBI783"], "last", None),
    ],
)
def test_an_experiment_wants_the_splits_that_its_runs_train_and_score_on(samples, select, told):
    """`samples: [...]` without the only test sample would train and then have nothing to score."""
    config = load("config/config.yaml")
    breast = config["datasets"]["human-breast-panel"]
    split = {name: [] for name in ("train", "val", "test")}
    for sample in samples:
        split["test" if sample == "NCBI783" else "train"].append(sample)
    config["datasets"] = {"breast": {**breast, "split": {"method": "listed", **split}}}
    config["datasets"]["breast"]["samples"] = samples
    experiment = {"datasets": ["breast"], "image_encoders": ["uni"], "gene_encoders": ["mlp"]}
    experiment |= {"seeds": [1]}
    config["experiments"] = {"mine": {**experiment, "training": {"select": select}}}
    config |= {"audit": {}, "mutation": {}, "overlay_gene": None}
    if told is None:
        check(config)
        return
    with pytest.raises(InputError) as caught:
        check(config)
    place = "config/config.yaml: experiments.mine.datasets[0]: found breast, which has no sample in"
    assert str(caught.value).startswith(place)
    assert told in str(caught.value)
    config["experiments"] = {}  # a dataset that nothing trains on may do without
    check(config)


def test_the_published_figure_shows_tp53_where_the_panel_has_it():
    plan = check(load("config/config.yaml"))
    shown = {
        dataset.panel: samples.overlay_gene(plan, dataset.samples[0])
        for dataset in plan.datasets.values()
    }
    having = {"human-5k-panel", "human-immuno-oncology-panel"}
    assert {panel for panel, gene in shown.items() if gene == "TP53"} == having
    assert {gene for panel, gene in shown.items() if panel not in having} == {None}


def test_a_split_can_be_a_file(tmp_path):
    table = tmp_path / "mine.tsv"
    table.write_text("sample\tsplit\nNCBI864\ttrain\nNCBI865\ttest\n")
    config = load("config/config.yaml")
    split = {"method": "file", "file": str(table)}
    config["datasets"]["mine"] = {"shards_of": LUNG, "split": split}
    plan = check(config)
    assert list(plan.datasets["mine"].samples) == ["NCBI864", "NCBI865"]
    table.write_text("sample\tsplit\nNCBI864\ttraining\n")
    with pytest.raises(InputError, match="column split: found 'training'; did you mean train"):
        check(config)


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ({"shards_of": "human-lung", "split": FOLD}, "datasets.new.shards_of: found 'human-lung'"),
        ({"shards_of": "new", "split": FOLD}, "datasets.new.shards_of: found 'new'"),
        (
            {"shards_of": LUNG, "panel": "human-5k-panel", "split": FOLD},
            "datasets.new.panel: found 'human-5k-panel', where human-lung-healthy-panel has",
        ),
        (
            {"shards_of": LUNG, "split": {"method": "listed", "train": ["TENX94"]}},
            "TENX94",
        ),
        ({"shards_of": LUNG, "split": {**FOLD, "fold": 15}}, "fold: found 15; allowed: 0 to 14"),
        ({"shards_of": LUNG, "split": {"method": "file"}}, "datasets.new.split: found no key 'f"),
        (
            {"panel": LUNG, "spots": "square55", "patches": "field112", "published_data": "x"}
            | {"split": {"method": "donor"}},
            "datasets.new.published_data: found a value, with source bundles; leave it out",
        ),
        (
            {"source": "published", "split": {"method": "donor"}},
            "datasets.new: found no key 'panel'; add panel",
        ),
        (
            {
                "panel": LUNG,
                "source": "published",
                "published_data": "x",
                "spots": "square55",
                "split": {"method": "donor"},
            },
            "datasets.new.spots: found a value, with source published; leave it out",
        ),
        (
            {"panel": "human-skin-panel", "spots": "square55", "patches": "field112"}
            | {"split": {"method": "donor"}},
            "2 donor(s)",
        ),
    ],
)
def test_a_dataset_that_cannot_be_is_refused_by_the_path_of_its_key(dataset, told):
    config = load("config/config.yaml")
    config["datasets"]["new"] = dataset
    with pytest.raises(InputError) as caught:
        check(config)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "preset", [{}, {"patch_px": 224}, {"native_px": 512, "patch_px": 224, "um_per_px": 0.5}]
)
def test_patches_are_of_one_field_of_view_or_native(preset):
    config = load("config/config.yaml")
    config["patches"]["mine"] = preset
    with pytest.raises(InputError, match=r"patches.mine: .* give um_per_px and patch_px, or nati"):
        check(config)
    config["patches"]["mine"] = {"native_px": 512}
    check(config)


def test_the_published_data_set_as_a_source_needs_no_bundle():
    config = load("config/config.yaml")
    config["datasets"]["hosted"] = {
        "panel": LUNG,
        "source": "published",
        "published_data": "elsewhere",
        "split": {"method": "donor"},
    }
    plan = check(config)
    assert len(list(plan.datasets["hosted"].samples)) == 20


def test_the_published_datasets_have_the_published_samples():
    plan = check(load("config/config.yaml"))
    counts = {
        name: len(dataset.samples)
        for name, dataset in plan.datasets.items()
        if not dataset.on_request
    }
    for name, count in counts.items():
        also = f"{name}-as-published"
        if name != "human-breast-addon":
            assert len(plan.datasets[also].samples) == count
    assert counts == {
        "human-5k-panel": 7,
        "human-breast-panel": 5,
        "human-breast-addon": 4,
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


def slides_config(**changes):
    """The shipped configuration with a simulated cohort and one prediction, some keys changed."""
    config = load("config/config.yaml")
    simulation = {"targets": {"MSI": {}, "KRAS": {"label_signal": 0}}}
    config["cohorts"]["mine"] = {"simulation": simulation}
    config["mutation"]["mine"] = {
        "cohort": "mine",
        "targets": ["MSI"],
        "models": [{"image": "uni"}],
        **changes,
    }
    return config


def models_of(config):
    plan = check(config)
    return {name: vars(model) for name, model in plan.mutation["mine"].models.items()}


def test_slide_predictions_have_the_papers_training_and_the_simulation_its_defaults():
    plan = check(slides_config())
    training = plan.config["mutation"]["mine"]["training"]
    assert (training["epochs"], training["learning_rate"], training["layers"]) == (10, 2e-5, 2)
    assert plan.config["mutation"]["mine"]["folds"] == 5
    simulation = plan.config["cohorts"]["mine"]["simulation"]
    assert simulation["patients"] == 60
    assert simulation["targets"]["MSI"]["site_spread"] == 0


def test_a_model_of_slides_is_an_encoder_as_it_came_or_a_pretrained_pair():
    pair = {"experiment": "benchmark", "dataset": "human-5k-panel", "gene": "mlp", "seed": 24442}
    found = models_of(slides_config(models=[{"image": "uni"}, {**pair, "image": "uni"}]))
    assert found == {
        "uni": {"image": "uni"} | dict.fromkeys(("experiment", "dataset", "gene", "seed")),
        "benchmark.human-5k-panel.uni-mlp.seed24442": {**pair, "image": "uni"},
    }
    assert len(models_of(slides_config(models=[pair]))) == 5
    assert len(models_of(slides_config(models=[{"experiment": "benchmark"}]))) == 360


def test_expression_in_an_images_place_is_no_model_of_slides():
    config = slides_config(models=[{"experiment": "benchmark", "gene": "mlp", "seed": 24442}])
    config["experiments"]["benchmark"]["controls"] = [{"image": "expression", "gene": "mlp"}]
    with pytest.raises(
        InputError, match=r"image_tuning: found lora; frozen is what expression can"
    ):
        models_of(config)
    config["experiments"]["benchmark"]["training"]["image_tuning"] = "frozen"
    assert len(models_of(config)) == 30
    config["mutation"]["mine"]["models"] = [{"image": "expression"}]
    with pytest.raises(InputError, match=r"mutation.mine.models\[0\].image: found 'expression'"):
        check(config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cohort": "tcga"}, "mutation.mine.cohort: found 'tcga'; did you mean tcga_crc?"),
        ({"external": ["mine"]}, "external[0]: found mine, which also trains"),
        ({"external": ["cptac"]}, "external[0]: found 'cptac'; did you mean cptac_crc?"),
        ({"targets": ["KRASS"]}, "targets[0]: found 'KRASS'; did you mean KRAS? allowed (targets"),
        ({"models": [{"image": "unii"}]}, "models[0].image: found 'unii'; did you mean uni?"),
        ({"models": [{"gene": "mlp"}]}, "models[0]: found gene but no experiment"),
        ({"models": [{}]}, "models[0]: found neither image nor experiment"),
        ({"models": [{"image": "tf_efficientnet_lite0_shuffled"}]}, "models[0].image: found 'tf"),
        ({"models": [{"experiment": "bench"}]}, "did you mean benchmark?"),
        ({"models": [{"experiment": "benchmark", "seed": 1}]}, "models[0].seed: found '1'"),
        (
            {"models": [{"experiment": "benchmark", "image": "uni2_h"}]},
            "models[0].image: found 'uni2_h'; did you mean uni?",
        ),
        ({"folds": 2}, "mutation.mine.folds: found 2"),
        ({"training": {"epoch": 1}}, "unknown key 'epoch'; did you mean epochs?"),
    ],
)
def test_a_slide_prediction_that_cannot_be_is_refused_by_the_path_of_its_key(changes, told):
    with pytest.raises(InputError) as caught:
        check(slides_config(**changes))
    assert told in str(caught.value)


def test_a_cohort_is_given_or_simulated_and_split_in_one_way():
    config = slides_config()
    config["cohorts"]["mine"]["table"] = "config/cohorts/tcga_crc.tsv"
    with pytest.raises(InputError, match=r"cohorts.mine: found both a table and a simulation"):
        check(config)
    config["cohorts"]["mine"] = {}
    with pytest.raises(InputError, match=r"cohorts.mine: found nothing; give a table, or"):
        check(config)
    config = slides_config()
    config["cohorts"]["mine"]["simulation"]["sites"] = 61
    with pytest.raises(InputError, match=r"cohorts.mine.simulation.sites: found 61 for 60"):
        check(config)
    config = slides_config()
    config["mutation"]["again"] = {**config["mutation"]["mine"], "folds": 4}
    with pytest.raises(InputError, match=r"folds: found 5, where again splits mine into 4"):
        check(config)
    config["mutation"]["again"]["leaking"] = True
    check(config)


def test_a_filled_table_is_checked_when_the_plan_is_made(tmp_path):
    table = tmp_path / "mine.tsv"
    head = "slide\tpatient\tsite\tfile\tMSI\n"
    table.write_text(head + "a\tp1\tA\ta.svs\t1\nb\tp2\tB\tb.svs\t0\n")
    config = slides_config()
    config["cohorts"]["mine"] = {"table": str(table)}
    check(config)
    config["mutation"]["mine"]["targets"] = ["KRAS"]
    with pytest.raises(InputError, match=r"found 'KRAS'; allowed .targets of mine.: MSI"):
        check(config)
    table.write_text(head + "a\tp1\tA\ta.svs\tyes\n")
    with pytest.raises(InputError, match="slide a, column MSI: found 'yes'"):
        check(config)


def test_samples_that_nothing_uses_are_listed_with_the_nearest_panel(tmp_path, caplog):
    """A misspelt panel takes its sample out of the plan: that is said."""
    config = load("tests/tiny.yaml")
    check(config, "tests/tiny.yaml")
    assert "no dataset" not in caplog.text
    lines = (ROOT / config["samples"]).read_text(encoding="utf-8").splitlines()
    header, row = lines[0].split("\t"), lines[1].split("\t")
    row[header.index("sample")], row[header.index("panel")] = "lost", "human-brest-panel"
    table = tmp_path / "samples.tsv"
    table.write_text("\n".join([*lines, "\t".join(row)]) + "\n", encoding="utf-8")
    check(config | {"samples": str(table)}, "tests/tiny.yaml")
    assert (
        f"{table}: samples lost of panel human-brest-panel: no dataset and no pool_also"
        in caplog.text
    )
    assert "did you mean human-breast-panel?" in caplog.text


@pytest.mark.parametrize(
    ("um_per_px", "words"),
    [
        (5, "patches of 1120 µm"),
        (50, "patches of 11200 µm"),
        (0.05, "patches of 11.2 µm"),
        (0.5, ""),
    ],
)
def test_patches_that_dont_go_with_their_spots_are_told(caplog, um_per_px, words):
    config = load("config/config.yaml")
    config["patches"]["field112"]["um_per_px"] = um_per_px
    check(config)
    assert words in caplog.text
    assert ("around spots of 55 µm: correct um_per_px" in caplog.text) == bool(words)


def test_every_pattern_of_a_schema_has_its_words():
    """A refusal says what is allowed in words, never by a regular expression."""
    import re

    from pairscape.core.options import PATTERNS

    for path in (ROOT / "workflow/schemas").glob("*.yaml"):
        found = re.findall(r"pattern: (\"[^\"]*\"|\S+?)[,}]?\s", path.read_text())
        assert {pattern.strip('"') for pattern in found} <= set(PATTERNS), path

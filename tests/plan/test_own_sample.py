"""One sample of one's own: the template works as it stands, and says what to mend where it doesn't."""

import pytest
import yaml
from conftest import ROOT
from plans import plan, workflow_folder

from pairscape.core.errors import InputError
from pairscape.plan import datasets, samples
from pairscape.plan.reading import read_plan

PATH = "config/own/config.yaml"


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return yaml.safe_load((ROOT / PATH).read_text())


def test_one_section_is_planned_once_and_cut_into_three_shards(tmp_path):
    folder = workflow_folder(tmp_path)
    bundle = folder / "results/demo/bundles/demo1"
    bundle.mkdir(parents=True)
    for name in ("experiment.xenium", "transcripts.parquet"):
        (bundle / name).touch()
    for name in ("_he_image.ome.tif", "_he_imagealignment.csv"):
        (bundle / f"demo1{name}").touch()
    counts, said = plan(folder, "--configfile", PATH)
    assert counts["check_bundle"] == counts["check_alignment"] == counts["pool_spots"] == 1
    assert counts["export_pairs"] == 3
    assert counts["pretrain"] == 4  # the pair, and the three controls that need no training
    assert "found nothing at" not in said


def test_blocks_share_the_files_of_their_section_and_have_its_facts(config):
    made = read_plan(config, PATH)
    parts = [f"my_sample-{split}" for split in ("test", "train", "val")]
    assert made.datasets["mine"].samples == tuple(parts)
    assert {made.whole(part) for part in parts} == {"my_sample"}
    assert {datasets.spots_folder(made, "mine", part) for part in parts} == {
        "results/own/samples/my_sample/square55"
    }
    assert samples.used_samples(made) == [("my_sample", "square55")]
    assert datasets.label_names(made, "mine")["name"] == parts
    assert {row["donor"] for row in datasets.split_facts(made, "mine")} == {"donor1"}
    assert datasets.audited_splits(made) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["datasets"]["mine"].update(panel="human-brest-panel"), "did you mean"),
        (
            lambda c: c["datasets"].update(
                other={"shards_of": "mine", "split": {"method": "within_sample"}}
            ),
            "datasets.other.shards_of: found 'mine', with method within_sample",
        ),
        (lambda c: c["datasets"]["mine"].update(samples=["my_sampel"]), "did you mean my_sample"),
    ],
)
def test_a_mistake_in_it_is_told_in_one_line(config, change, words):
    change(config)
    with pytest.raises(InputError, match=words) as told:
        read_plan(config, PATH)
    assert "\n" not in str(told.value)

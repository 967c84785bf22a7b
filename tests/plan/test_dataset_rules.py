"""The rules of datasets: what Snakemake plans and runs where no bundle is on disk."""

import pytest
import yaml
from conftest import ROOT
from plans import plan, snakemake

from pairscape.core.tsv import read_tsv
from pairscape.dataset.leakage import read_leaks
from pairscape.plan.datasets import label_names
from pairscape.plan.reading import read_plan

LUNG = "human-lung-healthy-panel"


def write_config(folder, datasets):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["datasets"] |= datasets
    config["experiments"]["benchmark"] |= {
        "datasets": [LUNG, *(name for name in datasets if name.startswith("fold"))],
        "image_encoders": ["uni"],
        "gene_encoders": ["mlp"],
        "seeds": [24442],
    }
    config["experiments"]["benchmark"]["training"] = {"image_tuning": "frozen"}
    config |= {"batch_effect": {"score": False}, "expression": {"score": False}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return "--configfile", "mine.yaml"


@pytest.mark.slow
def test_one_command_audits_the_published_splits_without_a_bundle(checkout):
    assert snakemake(checkout, "audit_splits").returncode == 0
    folder = checkout / "results" / "audits" / "splits"
    assert not (checkout / "bundles").exists()
    panels = {row["panel"] for row in read_tsv(ROOT / "config/published/splits.tsv")}
    leaks = {panel: read_leaks(folder / panel / "leakage.tsv") for panel in panels}
    donors = {leak["donor"] for leak in leaks[LUNG] if leak["finding"] == "same_donor"}
    assert donors == {"VUILD78", "VUILD96", "TILD117", "VUILD91"}
    assert [leak["finding"] for leak in leaks["human-skin-panel"]] == ["same_sample"]
    assert (folder / "human-breast-panel-paired_w_addon" / "leakage.tsv").exists()
    assert len(read_tsv(folder / "donor_splits.tsv")) == 7


def test_folds_export_nothing_anew_and_share_the_image_features(checkout):
    fold = {"method": "leave_one_donor_out"}
    folds = {f"fold{k}": {"shards_of": LUNG, "split": {**fold, "fold": k}} for k in range(3)}
    config = write_config(checkout, folds)
    counts, _ = plan(checkout, "results/report.html", *config)
    assert counts["split_donors"] == 7 + 3
    assert counts["export_pairs"] == 20
    assert counts["embed_images"] == 1
    assert counts["pretrain"] == 4


def test_the_published_data_set_is_imported_and_no_bundle_is_fetched(checkout):
    hosted = {"panel": LUNG, "source": "published", "published_data": "hosted"}
    config = write_config(checkout, {"hosted": {**hosted, "split": {"method": "donor"}}})
    counts, _ = plan(checkout, "results/datasets/hosted/README.md", *config)
    assert counts == {
        "select_genes": 1,
        "import_pairs": 20,
        "split_donors": 1,
        "describe_dataset": 1,
        "total": 23,
    }


def test_the_published_data_set_is_fetched_once_where_no_copy_is_named(checkout):
    hosted = {"panel": LUNG, "source": "published", "split": {"method": "donor"}}
    again = {**hosted, "split": {"method": "leave_one_donor_out"}}
    config = write_config(checkout, {"hosted": hosted, "again": again})
    targets = [f"results/datasets/{name}/README.md" for name in ("hosted", "again")]
    counts, said = plan(checkout, *targets, "--printshellcmds", *config)
    assert (counts["fetch_hosted"], counts["import_pairs"]) == (1, 40)
    assert f"--published-data hosted/{LUNG} " in said
    assert "Peng-AI/hescape-pyarrow" in said
    assert "fetch_bundle" not in " ".join(counts)


def test_one_sample_is_exported_again_alone(checkout):
    shard = f"results/datasets/{LUNG}/shards/NCBI856.arrow"
    counts, _ = plan(checkout, shard)
    assert counts["export_pairs"] == 1


def test_all_uploads_nothing(checkout, full_plan):
    counts, _ = full_plan
    assert not {"push_dataset", "push_to_hub", "audit_splits"} & set(counts)
    counts, _ = plan(checkout, "push_to_hub")
    assert counts["push_dataset"] == 1


def test_pairs_have_label_names_of_their_own_samples_alone(monkeypatch):
    """And of those whose datasets use the same shards."""
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["datasets"]["fold"] = {"shards_of": LUNG, "split": {"method": "leave_one_donor_out"}}
    config["datasets"]["fold"]["split"]["fold"] = 1
    made = read_plan(config, "config/config.yaml")
    names = label_names(made, LUNG)
    assert names == label_names(made, "fold")
    assert names["name"] == sorted(made.datasets[LUNG].samples)
    assert names["tissue"] == ["lung"]

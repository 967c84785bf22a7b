"""Every published table has a target that the full configuration can plan, without any data."""

import pytest
from conftest import ROOT
from plans import plan as planned

from pairscape.plan import reading
from pairscape.report import published_scores

SOURCE = "config/config.yaml"
TABLES = ROOT / "config/published"
COMPARED = ("benchmark", "ablation_projection", "ablation_loss", "ablation_finetuning")


@pytest.fixture(scope="module")
def full():
    import yaml

    return reading.read_plan(yaml.safe_load((ROOT / SOURCE).read_text()), SOURCE)


def experiments_of(full, name):
    return {e: of for e, of in full.experiments.items() if e == name or e.startswith(f"{name}_")}


@pytest.mark.slow
def test_the_targets_of_all_published_tables_are_planned(checkout, full):
    targets = [f"results/tables/published-gap_{name}.md" for name in COMPARED]
    targets += ["results/figures/batch_effect_benchmark.png", "results/tables/batch_effect.md"]
    targets += ["results/tables/expression_benchmark.md", "results/tables/mutation.md"]
    targets += [
        f"results/{kind}/retrieval_{experiment}.{end}"
        for kind, end in (("tables", "md"), ("figures", "png"))
        for experiment, of in full.experiments.items()
        if of.protocol == "corrected" and not experiment.startswith("audit-")
    ]
    counts, _ = planned(checkout, *targets, "--configfile", SOURCE)
    cells = published_scores.read_ablations(TABLES / "ablations.tsv")
    names = ("source", "level", "gene_encoder", "image_encoder", "panel")
    ablated = {tuple(cell[name] for name in names) for cell in cells}
    assert counts["pretrain"] == 6 * 5 * 4 * 3 + len(ablated)
    assert counts["compare_published"] == len(COMPARED)


@pytest.mark.slow
def test_the_published_protocol_and_every_audit_are_planned(checkout, full):
    targets = ["results/tables/published-gap_as_published.md"]
    targets += [f"results/tables/audit_{name}.md" for name in full.audits]
    counts, _ = planned(checkout, *targets, "--configfile", SOURCE)
    audits = [e for e in full.experiments if e.startswith("audit-")]
    audited = sum(
        len(of.datasets) * len(of.pairs) * len(of.seeds) for of in map(full.experiments.get, audits)
    )
    assert counts["pretrain"] == 6 * 5 * 4 * 3 + audited
    assert counts["score_audit"] == len(full.audits)


@pytest.mark.slow
def test_each_table_and_figure_has_a_target_for_one_panel(checkout, full):
    shown = "benchmark.human-breast-panel"
    targets = [f"results/tables/{name}_{shown}.md" for name in ("retrieval", "expression")]
    targets += [f"results/figures/{name}_{shown}.png" for name in ("retrieval", "batch_effect")]
    targets += [
        f"results/tables/published-gap_{shown}.md",
        f"results/figures/expression_{shown}.png",
    ]
    counts, _ = planned(checkout, *targets, "--configfile", SOURCE)
    assert counts["pretrain"] == 5 * 4 * 3
    assert counts["score_retrieval"] == counts["score_expression"] == 1
    level = "results/tables/published-gap_ablation_loss.human-colon-panel.md"
    assert planned(checkout, level, "--configfile", SOURCE)[0]["pretrain"] == 4


@pytest.mark.slow
def test_what_is_scored_so_far_is_compared_without_training(checkout):
    counts, _ = planned(checkout, "results/tables/published-gap-so-far_benchmark.md")
    assert counts["compare_published_so_far"] == counts["total"] == 1


def test_every_published_cell_has_a_run_in_the_configuration(full):
    """By the training options: a level that nobody trains would be a hole in the table."""
    cells = published_scores.read_retrieval(TABLES / "retrieval.tsv")
    cells += published_scores.read_ablations(TABLES / "ablations.tsv")
    names = {
        "": "benchmark",
        "image_projection": "ablation_projection",
        "loss": "ablation_loss",
        "finetuning_image/gene": "ablation_finetuning",
    }
    for cell in cells:
        found = [
            name
            for name, plan in experiments_of(full, names[cell["factor"]]).items()
            if published_scores.fits(plan.training, cell["factor"])
            and published_scores.level_of(plan.training, cell["factor"]) == cell["level"]
            and cell["panel"] in plan.datasets
            and cell["image_encoder"] in plan.image_encoders
            and cell["gene_encoder"] in plan.gene_encoders
            and len(plan.seeds) == cell["seeds"]
        ]
        assert len(found) == 1, cell


def test_the_donors_that_the_table_supports_are_fewer_than_the_paper_counts(full):
    """The paper counts 54; a donor that no source names stands for one bundle."""
    samples = full.samples
    of_panels = {
        sample
        for name in full.experiments["benchmark"].datasets
        for sample in full.datasets[name].samples
    }
    known = {s: samples[s]["donor_known"] == "True" for s in of_panels}
    donors = {samples[sample]["donor"] for sample in of_panels}
    named = {samples[sample]["donor"] for sample in of_panels if known[sample]}
    assert (len(of_panels), len(donors), len(named)) == (57, 52, 25)


def test_the_breast_add_on_pairs_are_a_dataset_of_their_own(full):
    rows = full.published
    published = {row["sample"] for row in rows if row["split"] == "paired_w_addon"}
    assert set(full.datasets["human-breast-addon"].samples) == published
    assert all("human-breast-addon" not in one.datasets for one in full.experiments.values())

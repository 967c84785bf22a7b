"""The calibration grid: sections as the simulator makes them, donors that leak as said, its table."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ROOT

import calibrate_scores
import show_calibration
import simulate_bundle
from pairscape.calibrate import calibration
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.encoders import specs
from pairscape.evaluate.clustering import BatchEffectOptions
from pairscape.evaluate.targets import ExpressionOptions
from pairscape.pretrain.options import resolve_training
from pairscape.report import calibration_table
from pairscape.simulation import histology, knobs, sections, tissue
from pairscape.simulation.kinds import KINDS
from pairscape.simulation.panel import read_panel_table

PANEL = ROOT / "config" / "published" / "panels" / "human-breast-panel.tsv"
SMALL = {"width_um": 330, "height_um": 275, "tissue_cover": 1}
GENES = read_panel_table(PANEL)


def options(**more):
    root = ROOT / "config" / "encoders"
    training = {"batch_size": 32, "max_steps": 60, "warmup_steps": 6, "learning_rate": 1e-3}
    training |= {"image_tuning": "frozen", "select": "last", "early_stopping": None}
    given = {
        "image_encoder": specs.read_encoder(root, "image", "tf_efficientnet_lite0"),
        "gene_encoder": specs.read_encoder(root, "gene", "mlp"),
        "seed": 3,
        "batch_effect": 0.5,
        "morphology_signal": [0, 1],
        "donors": 3,
        "simulation": resolve_part("simulation", SMALL),
        "training": resolve_training(training),
        "batch_effect_scoring": BatchEffectOptions.of({}),
        "expression_scoring": ExpressionOptions.of({}),
        **more,
    }
    return calibration.GridRow(**given)


@pytest.fixture(scope="module")
def data():
    return calibration.simulate(options(), GENES)


@pytest.mark.slow
def test_a_section_is_what_the_bundle_of_that_sample_holds(tmp_path):
    sample = {"sample": "one", "donor": "donor", "panel": "human-breast-panel"}
    given = {"sample": sample, "seed": 7, "simulation": {**SMALL, "batch_effect": 0.8}}
    simulate_bundle.main(
        ["--panel", str(PANEL), "--bundle", str(tmp_path / "one"), "--options", json.dumps(given)]
    )
    resolved = knobs.resolve_knobs(given["simulation"])
    found = sections.draw_section(resolved, knobs.sample_seeds(7, "one", "donor"), GENES)

    truth = sp.load_npz(tmp_path / "one" / "truth" / "counts.npz").toarray()
    spots = pd.read_csv(tmp_path / "one" / "truth" / "spots.tsv", sep="\t")
    kinds = spots[list(KINDS)].to_numpy()
    kept = (kinds.sum(1) > 0) & (truth.sum(1) > 0)
    assert len(found.counts) == kept.sum() > 20
    np.testing.assert_array_equal(found.counts, truth[kept])
    np.testing.assert_array_equal(found.xy_um, 55 * spots[["col", "row"]][kept] + 27.5)
    np.testing.assert_array_equal(
        found.cell_type, np.array(KINDS)[[row.argmax() for row in kinds[kept]]]
    )


@pytest.mark.slow
def test_a_patch_lies_around_its_spot():
    resolved = knobs.resolve_knobs(SMALL)
    seeds = knobs.sample_seeds(1, "one", "donor")
    section = sections.draw_section(resolved, seeds, GENES)
    patches = sections.draw_patches(section, resolved, seeds, 224)
    # The image of a region that begins where the last spot's patch does, drawn on its own.
    corner = section.xy_um[-1] - 56
    frame = histology.Frame(np.eye(2) * 0.5, corner, 224, 224)
    shown = tissue.mix_tissues(resolved, section.grown, seeds["image"])
    alone = histology.draw_he(shown, frame, histology.donor_stain(resolved, seeds), seeds["image"])
    dark, wanted = (255 - picture.astype(float).mean(2) for picture in (patches[-1], alone))
    assert np.corrcoef(dark.ravel(), wanted.ravel())[0, 1] > 0.9
    with pytest.raises(ValueError, match="beyond the image"):
        sections.draw_patches(section, resolved, seeds, 1024)


@pytest.mark.parametrize("donors", [3, 4, 6])
def test_donors_are_apart_or_shared_in_test_splits_of_one_size(donors):
    of = calibration.sample_names(donors)
    tested = {}
    for arrangement in calibration.DONORS:
        split = calibration.split_samples(donors, arrangement)
        assert split.keys() == of.keys()
        assert set(split.values()) == {"train", "test"}
        tested[arrangement] = [name for name in split if split[name] == "test"]
        trained = {of[name] for name in split if split[name] == "train"}
        shared = [name for name in tested[arrangement] if of[name] in trained]
        assert shared == ([] if arrangement == "apart" else tested[arrangement])
    assert len(tested["apart"]) == len(tested["shared"]) == 2 * (donors // 3)


@pytest.mark.slow
def test_the_counts_are_the_same_for_every_signal_and_the_patches_are_not(data):
    again = calibration.simulate(options(), GENES)
    np.testing.assert_array_equal(data.counts, again.counts)
    shown, hidden = (calibration.draw_patches(data, options(), signal) for signal in (1, 0))
    assert shown.shape == (len(data.counts), 224, 224, 3)
    assert (shown != hidden).mean() > 0.5


@pytest.mark.slow
def test_recall_tells_features_that_know_the_spot_from_noise(data):
    rows = calibration.rows_of(data, 3, "apart")
    genes = [
        dict(zip(("gene_symbol", "gene_id"), g, strict=True)) for g in zip(*GENES[:2], strict=True)
    ]
    knowing = np.log1p(data.counts.astype(np.float32))
    noise = np.random.default_rng(0).normal(size=(len(knowing), 64)).astype(np.float32)
    found = {}
    for name, features in (("knowing", knowing), ("noise", noise)):
        scored = calibration.score_retrieval(data, features, rows, genes, options())
        assert {row["gallery"] for row in scored} == {
            "split",
            "sample",
            "in_batch_64_ranks_4",
        }  # one test donor: there are no other donors' spots
        found[name] = next(row for row in scored if row["gallery"] == "split")
        assert found[name]["chance"] == pytest.approx(5 / len(rows["test"]))
    assert found["knowing"]["value"] > 0.6
    assert found["noise"]["value"] < 3 * found["noise"]["chance"]


@pytest.mark.slow
def test_silhouettes_are_taken_on_true_types_and_on_clusters(data):
    space = calibration.embed_counts(data, options())
    split = calibration.split_of(data, 3, "apart")
    scored = calibration.score_counts(data, "split", split, options(), space)
    assert [(row["score"], row["of"]) for row in scored] == [
        (score, f"{label}, split as batch")
        for label in ("Leiden clusters", "true cell types")
        for score in ("silhouette_batch", "bras")
    ]
    assert all(0 <= row["skipped"] <= 1 for row in scored)
    # Two batches that are the same spots twice over would mix; spots dealt at random nearly do.
    dealt = np.random.default_rng(0).permutation(split)
    mixed = calibration.score_counts(data, "split", dealt, options(), space)
    assert mixed[2]["value"] > scored[2]["value"]


def made_up_rows(value):
    """A row per point of a grid of three signals, two batch effects and two seeds."""
    return [
        {
            "morphology_signal": signal,
            "batch_effect": effect,
            "donors": "apart",
            "seed": str(seed),
            "score": "recall@5",
            "of": "both directions",
            "gallery": "split",
            "value": value(signal, effect, seed),
            "chance": 0.1,
            "spots": 10.0,
            "skipped": None,
            "options_sha256": "",
        }
        for signal, effect, seed in itertools.product((0.0, 0.5, 1.0), (0.0, 1.0), (1, 2))
    ]


def test_the_table_says_what_a_score_follows():
    (row,) = calibration.follow(made_up_rows(lambda signal, effect, seed: signal + 0.01 * seed))
    signals = [s for s, _, _ in itertools.product((0.0, 0.5, 1.0), (0.0, 1.0), (1, 2))]
    wanted = (
        pd.Series(signals)
        .rank()
        .corr(pd.Series([r["value"] for r in made_up_rows(lambda s, e, k: s + 0.01 * k)]).rank())
    )
    assert row["morphology_signal_spearman"] == pytest.approx(wanted)
    assert wanted > 0.9
    assert row["morphology_signal_spearman_low"] == pytest.approx(1)
    assert row["batch_effect_spearman"] == pytest.approx(0)
    assert row["morphology_signal_least"] == pytest.approx(0.015)
    assert row["morphology_signal_greatest"] == pytest.approx(1.015)
    assert (row["datasets"], row["undefined"]) == (12, 0)


def test_a_score_that_does_not_move_has_no_coefficient():
    (row,) = calibration.follow(made_up_rows(lambda *_: 0.5))
    assert row["morphology_signal_spearman"] is None
    assert row["batch_effect_spearman"] is None


def test_a_score_that_is_undefined_is_counted():
    rows = made_up_rows(lambda signal, effect, seed: signal if seed == 1 else None)
    (row,) = calibration.follow(rows)
    assert (row["datasets"], row["undefined"]) == (12, 6)
    (section,) = calibration_table.sections([row])
    assert any("not defined on 6 of 12" in note for note in section["notes"])


def test_scores_go_to_a_table_and_a_figure(tmp_path):
    rows = made_up_rows(lambda signal, effect, seed: signal - 0.2 * effect)
    more = [{**row, "score": "silhouette_batch", "gallery": "", "skipped": 0.25} for row in rows]
    paths = []
    for place, label in enumerate(("true cell types", "Leiden clusters")):
        paths.append(tmp_path / f"{place}.tsv")
        named = [{**row, "of": f"{label}, split as batch"} for row in more]
        calibration.write_scores(paths[-1], [*(rows if place == 0 else []), *named])
    given = ["--scores", *map(str, paths)]
    table, png = tmp_path / "t.tsv", tmp_path / "f.png"
    show_calibration.main(
        [
            *given,
            "--table",
            str(table),
            "--markdown",
            str(tmp_path / "t.md"),
            "--latex",
            str(tmp_path / "t.tex"),
        ]
    )
    show_calibration.main([*given, "--png", str(png), "--svg", str(tmp_path / "f.svg")])
    assert png.stat().st_size > 10_000
    read = calibration_table.TABLE.read(table)
    assert [row["skipped"] for row in read] == [None, 0.25, 0.25]
    assert "Recall@5" in (tmp_path / "t.md").read_text()
    with pytest.raises(InputError, match="give it once"):
        calibration.read_scores([paths[0], paths[0]])


def test_a_gene_encoder_that_must_be_fitted_first_is_refused():
    given = options(gene_encoder=specs.read_encoder(ROOT / "config/encoders", "gene", "drvi"))
    with pytest.raises(InputError, match="learned with the pair"):
        calibrate_scores.check_options({**vars(given), "calibration": {}})

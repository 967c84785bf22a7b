"""The sentence on top of the report: the best pair by its numbers, and controls that may beat it."""

from pairscape.report import headline


def row(gene, side, value, control="", gallery="split", dataset="mine"):
    return {
        "dataset": dataset,
        "image_encoder": "uni",
        "gene_encoder": gene,
        "direction": side,
        "gallery": gallery,
        "control": control,
        "gallery_size": 569.0,
        "recall@5": value,
        "recall@5_ci_low": value and value - 0.02,
        "recall@5_ci_high": value and value + 0.02,
        "recall@5_chance": 5 / 569,
    }


def both(gene, to_genes, to_images, **more):
    return [row(gene, "i2g", to_genes, **more), row(gene, "g2i", to_images, **more)]


def test_the_mean_of_both_directions_chooses_and_its_numbers_are_told():
    rows = both("mlp", 0.2, 0.04) + both("drvi", 0.13, 0.15)
    (told,) = headline.sentences(rows)
    assert "uni with drvi finds" in told["best"]
    assert "first 5 of 569" in told["best"]
    assert "0.130 [0.110\N{EN DASH}0.150] from image to genes" in told["best"]
    assert "0.150 [0.130\N{EN DASH}0.170] from genes to image" in told["best"]
    assert "chance is 0.009" in told["best"]
    assert told["controls"] == []


def test_a_control_that_beats_the_best_pair_is_no_best_pair_and_said_to_be_above():
    rows = both("mlp", 0.1, 0.1) + both("linear_alignment", 0.12, 0.12, control="closed form")
    rows += both("mlp", 0.01, 0.03, control="floor: shuffled pairs")
    (told,) = headline.sentences(rows)
    assert "uni with mlp finds" in told["best"]
    assert told["controls"] == [
        "closed form: 0.120, above the best pair's 0.100 (means of both directions).",
        "floor: shuffled pairs: 0.020, below the best pair's 0.100 (means of both directions).",
    ]


def test_small_galleries_failed_runs_and_datasets_without_pairs_say_nothing():
    rows = both("mlp", 0.9, 0.9, gallery="in_batch_64") + both("drvi", None, None)
    rows += both("linear_alignment", 0.5, 0.5, control="closed form", dataset="other")
    assert headline.sentences(rows) == []
    told = headline.sentences(both("mlp", 0.2, 0.2) + both("mlp", 0.3, 0.3, dataset="other"))
    assert [one["best"].partition(":")[0] for one in told] == ["mine", "other"]

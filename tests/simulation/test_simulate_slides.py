"""simulate_slides: slides that OpenSlide reads, labels dealt exactly, and what each knob does."""

import json

import numpy as np
import pytest

import simulate_slides
from pairscape.core.errors import InputError
from pairscape.core.files import sha256_file
from pairscape.core.options import resolve_part
from pairscape.core.tsv import read_tsv
from pairscape.simulation import whole_slides
from pairscape.slides import cohorts

TARGETS = {
    "seen": {"label_signal": 1},
    "unseen": {"label_signal": 0, "site_spread": 0.4},
}
SMALL = {"patients": 6, "sites": 3, "second_slides": 0.34, "width_um": 450, "targets": TARGETS}


def simulate(folder, simulation=SMALL, cohort="sim", seed=3):
    simulate_slides.main(
        [
            *("--table", str(folder / cohort / "cohort.tsv")),
            *("--truth", str(folder / cohort / "truth.tsv")),
            *("--slides", str(folder / cohort / "slides")),
            *("--options", json.dumps({"cohort": cohort, "seed": seed, "simulation": simulation})),
        ]
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("slides"))


def plan(seed=3, **knobs):
    return whole_slides.plan_cohort(resolve_part("slide_simulation", knobs), "sim", seed)


def positives(rows, target):
    """The number of patients with label 1 at each site, in the order of the sites."""
    known = {row["patient"]: (row["site"], row[target]) for row in rows}
    sites = sorted({site for site, _ in known.values()})
    return [sum(label for of, label in known.values() if of == site) for site in sites]


def test_the_table_names_slides_that_openslide_reads_with_their_pixel_size(made):
    import openslide

    rows = cohorts.read_cohort(made / "sim/cohort.tsv")
    assert cohorts.targets_of(rows) == ["seen", "unseen"]
    assert len(rows) == 8
    assert len({row["patient"] for row in rows}) == 6
    for row in rows:
        with openslide.OpenSlide(cohorts.slide_file(made, row)) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
            assert slide.dimensions == (900, 900)
            assert slide.level_dimensions[1] == (450, 450)
            corner = np.asarray(slide.read_region((0, 0), 0, (10, 10)))[..., :3]
            assert corner.min() > 200  # glass
            half = np.asarray(slide.read_region((0, 0), 1, (450, 450)))[..., 1]
            assert 0.3 < np.mean(half < 200) < 0.95  # tissue


def test_the_truth_counts_cells_and_repeats_the_labels(made):
    truth = read_tsv(made / "sim/truth.tsv", ["slide", "site", "seen", "unseen", "lymphocyte"])
    rows = cohorts.read_cohort(made / "sim/cohort.tsv")
    assert [row["slide"] for row in truth] == [row["slide"] for row in rows]
    assert all(int(of["seen"]) == row["seen"] for of, row in zip(truth, rows, strict=True))
    assert all(int(row["cells"]) > int(row["tumour"]) + int(row["lymphocyte"]) for row in truth)


@pytest.mark.slow
def test_a_label_changes_the_tissue_by_its_knob():
    def lymphocytes(label, signal):
        targets = {"a": {"label_signal": signal}}
        knobs = {"width_um": 900, "um_per_px": 2, "targets": targets}
        row = {"slide": "s", "patient": "p", "site": "site1", "a": label}
        knobs = resolve_part("slide_simulation", knobs)
        return whole_slides.draw_slide(knobs, row, "sim", 3)[1]["lymphocyte"]

    assert lymphocytes(1, 0) == lymphocytes(0, 0)
    assert lymphocytes(1, 1) > 1.5 * lymphocytes(0, 1)
    assert lymphocytes(1, 1) > lymphocytes(1, 0.5) > lymphocytes(0, 0.5) > lymphocytes(0, 1)


def test_a_label_without_signal_changes_no_pixel_of_any_slide(made, tmp_path):
    targets = {**TARGETS, "unseen": {"label_signal": 0, "prevalence": 0.2}}
    simulate(tmp_path, {**SMALL, "targets": targets})
    before, after = (cohorts.read_cohort(folder / "sim/cohort.tsv") for folder in (made, tmp_path))
    assert [row["unseen"] for row in before] != [row["unseen"] for row in after]
    assert [row["seen"] for row in before] == [row["seen"] for row in after]
    for row in before:
        files = [cohorts.slide_file(folder, row) for folder in (made, tmp_path)]
        assert sha256_file(files[0]) == sha256_file(files[1])


def test_equal_prevalence_is_equal_at_every_site_and_unequal_is_apart():
    rows = plan(
        patients=5000,
        second_slides=0,
        targets={
            "equal": {},
            "rare": {"prevalence": 0.1},
            "apart": {"site_spread": 0.4},
            "all_or_none": {"site_spread": 0.5},
        },
    )
    per_site = {
        name: sorted(np.array(positives(rows, name)) / 500)
        for name in rows[0]
        if name in ("equal", "rare", "apart", "all_or_none")
    }
    wide = 4 * np.sqrt(0.25 / 500)  # four standard errors
    assert np.allclose(per_site["equal"], 0.5, atol=wide)
    assert np.allclose(per_site["rare"], 0.1, atol=wide)
    assert np.allclose(per_site["apart"], [0.1] * 5 + [0.9] * 5, atol=wide)
    assert per_site["all_or_none"] == [0] * 5 + [1] * 5


def test_a_patients_label_tells_nothing_of_the_others_of_its_site():
    """Labels dealt to an exact number per site would make leaking sites score below chance."""
    numbers = [
        number
        for seed in range(40)
        for number in positives(plan(seed=seed, targets={"a": {}}), "a")
    ]
    assert np.var(numbers) == pytest.approx(6 * 0.25, rel=0.3)  # binomial


def test_targets_are_dealt_independently_of_each_other():
    alone = plan(targets={"a": {}})
    both = plan(targets={"b": {"site_spread": 0.4}, "a": {}, "c": {}})
    assert [row["a"] for row in alone] == [row["a"] for row in both]
    assert [row["a"] for row in both] != [row["c"] for row in both]
    assert [row["a"] for row in alone] != [row["a"] for row in plan(seed=4, targets={"a": {}})]


def test_slides_of_a_patient_share_site_and_labels():
    rows = plan(patients=20, second_slides=0.5, targets={"a": {}})
    assert len(rows) == 30
    known = {}
    for row in rows:
        assert known.setdefault(row["patient"], (row["site"], row["a"])) == (row["site"], row["a"])
    assert len({row["slide"] for row in rows}) == 30


def drawn(site, slide="a", **knobs):
    """A slide of the one patient at a site: its mean colour where there is tissue, and its glass."""
    given = {"width_um": 450, "um_per_px": 2, "targets": {"a": {}}, **knobs}
    row = {"slide": slide, "patient": "p", "site": site, "a": 0}
    picture, _ = whole_slides.draw_slide(resolve_part("slide_simulation", given), row, "sim", 3)
    return picture[picture[..., 1] < 190].mean(axis=0), picture[:5, :5].mean(axis=(0, 1))


def test_sites_stain_in_their_own_way_by_a_knob():
    sites = [f"site{i}" for i in range(5)]
    spread = {
        knob: np.std([drawn(site, site_stain=knob)[0] for site in sites], axis=0).max()
        for knob in (0, 0.5, 1)
    }
    assert spread[0] < 1e-6  # the same tissue, with the slide's own shift of stain
    assert spread[1] > 1.4 * spread[0.5] > 4


def test_slides_of_a_site_share_its_stain_but_for_their_own_by_a_knob():
    first, other = (drawn("site1", slide, slide_stain=0)[1] for slide in "ab")
    assert np.abs(first - other).max() < 1.2
    first, other = (drawn("site1", slide, slide_stain=2)[1] for slide in "ab")
    assert np.abs(first - other).max() > 2


def test_another_cohort_has_other_slides(made, tmp_path):
    simulate(tmp_path, {**SMALL, "patients": 4, "second_slides": 0}, cohort="other")
    rows = cohorts.read_cohort(tmp_path / "other/cohort.tsv")
    assert [row["patient"] for row in rows] == [f"other-{i}" for i in (1, 2, 3, 4)]
    assert len({sha256_file(cohorts.slide_file(tmp_path, row)) for row in rows}) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"simulation": {**SMALL, "side": 3}}, "simulation: found the unknown key 'side'"),
        ({"simulation": {"patients": 6}}, "simulation: found no key 'targets'"),
        ({"simulation": {**SMALL, "sites": 7}}, "simulation.sites: found 7 for 6 patients"),
        ({"simulation": {**SMALL, "targets": {"site": {}}}}, "targets: found the name site"),
        (
            {"simulation": {**SMALL, "targets": {"a": {"prevalence": 0.2, "site_spread": 0.3}}}},
            "targets.a.site_spread: found 0.3 around a prevalence of 0.2",
        ),
        ({"simulation": {**SMALL, "targets": {"a": {"label_signal": 2}}}}, "label_signal: found 2"),
        ({"cohort": "a/b"}, "--options: cohort: found 'a/b'"),
        ({"seed": None}, "--options: seed: found None"),
        ({"sites": 3}, "--options: sites: found an unknown key"),
    ],
)
def test_knobs_that_cannot_be_are_refused_and_nothing_is_left(tmp_path, options, told):
    given = {"cohort": "sim", "seed": 1, "simulation": SMALL} | options
    flags = ["--table", "cohort.tsv", "--truth", "truth.tsv", "--slides", "slides"]
    flags = [flag if flag.startswith("--") else str(tmp_path / flag) for flag in flags]
    with pytest.raises(InputError) as caught:
        simulate_slides.main([*flags, "--options", json.dumps(given)])
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []

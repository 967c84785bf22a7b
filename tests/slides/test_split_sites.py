"""Folds keep sites whole, balance the label, follow the seed, and say how far off they are."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

import split_sites
from pairscape.core.errors import InputError
from pairscape.slides import site_folds


def tcga_like(seed=0, patients=600, sites=30, prevalence=0.15):
    """Patients of sites of very unequal size and prevalence, as TCGA's tissue source sites are."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, sites + 1) ** 0.6
    site = np.concatenate(
        [np.arange(sites), rng.choice(sites, patients - sites, p=share / share.sum())]
    )
    chance = rng.beta(2, 2 * (1 - prevalence) / prevalence, sites)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    codes = [a + b for a, b in itertools.product(letters[:2], letters)][:sites]
    return [
        {
            "patient": f"TCGA-{codes[s]}-{i:04d}",
            "site": codes[s],
            "label": int(rng.random() < chance[s]),
        }
        for i, s in enumerate(site)
    ]


def write_cohort(path, patients, slides_each=1):
    lines = ["slide\tpatient\tsite\tfile\tum_per_px\tnotes\tMSI"]
    for row in patients:
        for i in range(slides_each):
            slide = f"{row['patient']}-{i}"
            label = "" if row["label"] is None else row["label"]
            lines.append(f"{slide}\t{row['patient']}\t\t{slide}.svs\t\t\t{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def split(tmp_path, cohort, name="MSI", **changes):
    options = {"cohort": "tcga", "target": "MSI", "folds": 5, "seed": 0, **changes}
    folds, balance = tmp_path / f"{name}.tsv", tmp_path / f"{name}.json"
    flags = ["--cohort", str(cohort), "--folds", str(folds), "--balance", str(balance)]
    split_sites.main([*flags, "--options", json.dumps(options)])
    return site_folds.read_folds(folds), site_folds.read_balance(balance)


def test_no_site_stands_in_two_folds_and_every_patient_stands_in_one():
    for seed in range(3):
        patients = tcga_like(seed)
        rows, balance = site_folds.deal_folds(patients, 5, seed)
        assert Counter(row["patient"] for row in rows) == Counter(p["patient"] for p in patients)
        folds_of = {}
        for row in rows:
            folds_of.setdefault(row["site"], set()).add(row["fold"])
        assert len(folds_of) == 30
        assert all(len(folds) == 1 for folds in folds_of.values())
        assert {row["fold"] for row in rows} == set(range(5))
        assert balance["sites_in_two_folds"] == 0


def test_600_patients_of_30_sites_are_balanced_as_well_as_is_possible():
    for seed in range(3):
        rows, balance = site_folds.deal_folds(tcga_like(seed), 5, seed)
        assert balance["optimal"]
        held = Counter((row["fold"], row["label"]) for row in rows)
        for label in (0, 1):
            total = sum(row["label"] == label for row in rows)
            off = [abs(held[fold, label] - total / 5) for fold in range(5)]
            name = ("negatives", "positives")[label]
            assert max(off) == pytest.approx(balance["off_by"][name])
            assert max(off) <= max(0.12 * total / 5, 2)  # a random dealing of sites is far worse


def test_a_random_dealing_of_the_sites_would_not_pass():
    sizes = np.zeros((30, 2), int)
    codes = {}
    for row in tcga_like():
        sizes[codes.setdefault(row["site"], len(codes)), row["label"]] += 1
    rng = np.random.default_rng(0)
    random = [site_folds._cost(sizes, rng.integers(0, 5, 30), 5) for _ in range(200)]
    assert site_folds.deal_sites(sizes, 5, 0)[1]["cost"] < min(random) / 4


@pytest.mark.parametrize("seed", range(6))
def test_few_sites_are_dealt_as_well_as_trying_every_dealing_does(seed):
    sizes = np.random.default_rng(seed).integers(0, 12, (7, 2))
    best = min(
        site_folds._cost(sizes, np.array(dealt), 3)
        for dealt in itertools.product(range(3), repeat=len(sizes))
    )
    dealt, told = site_folds.deal_sites(sizes, 3, seed)
    assert site_folds._cost(sizes, dealt, 3) == pytest.approx(best, abs=1e-6)
    assert told["optimal"]
    assert told["cost_at_least"] == pytest.approx(best, abs=1e-5)


def test_the_integer_program_alone_finds_the_best_dealing():
    sizes = np.array([[9, 1], [2, 6], [5, 5], [1, 1], [7, 0], [3, 3]])
    best = min(
        site_folds._cost(sizes, np.array(dealt), 3)
        for dealt in itertools.product(range(3), repeat=len(sizes))
    )
    dealt, least = site_folds._solve(sizes, 3, ceiling=1000)
    assert site_folds._cost(sizes, dealt, 3) == pytest.approx(best)
    assert least == pytest.approx(best, abs=1e-5)


def test_a_fold_gets_both_labels_where_the_sites_allow_it():
    # Even shares alone would put both sites with positives together with their many negatives.
    sizes = np.array([[10, 1], [10, 1], [10, 1], [30, 0], [1, 0]])
    dealt, _ = site_folds.deal_sites(sizes, 3, 0)
    assert [int(sizes[dealt == fold, 1].sum()) for fold in range(3)] == [1, 1, 1]


def test_folds_are_the_same_for_the_same_seed_and_in_whatever_order_patients_come():
    patients = tcga_like()
    first, _ = site_folds.deal_folds(patients, 5, 3)
    assert site_folds.deal_folds(patients[::-1], 5, 3)[0] == first
    assert site_folds.deal_folds(patients, 5, 4)[0] != first
    leaked = site_folds.deal_folds(patients, 5, 3, leaking=True)[0]
    assert site_folds.deal_folds(patients[::-1], 5, 3, leaking=True)[0] == leaked


def test_leaking_deals_patients_evenly_whatever_their_site():
    rows, balance = site_folds.deal_folds(tcga_like(), 5, 0, leaking=True)
    held = Counter(row["fold"] for row in rows)
    assert set(held.values()) == {120}
    positives = Counter(row["fold"] for row in rows if row["label"])
    assert max(positives.values()) - min(positives.values()) <= 1
    assert balance["sites_in_two_folds"] > 20
    assert "stand in several folds" in site_folds.balance_words(balance)


def test_sites_that_cannot_be_balanced_are_told_with_how_far_off_they_are():
    sizes = {"a": (60, 20), "b": (9, 2), "c": (8, 1), "d": (3, 0)}
    patients = [
        {"patient": f"{site}{label}{i}", "site": site, "label": label}
        for site, of in sizes.items()
        for label in (0, 1)
        for i in range(of[label])
    ]
    _, balance = site_folds.deal_folds(patients, 3, 0)
    assert balance["off_by"]["positives"] == pytest.approx(20 - 23 / 3)
    assert balance["off_by"]["negatives"] == pytest.approx(60 - 80 / 3)
    words = site_folds.balance_words(balance)
    assert "off an even share by up to 12.3 positives and 33.3 negatives" in words
    assert "the least cost with sites kept whole" in words


def test_a_fold_without_a_label_is_named():
    patients = [
        {"patient": f"{site}{i}", "site": site, "label": int(site == "a" and i < 3)}
        for site in "abc"
        for i in range(5)
    ]
    _, balance = site_folds.deal_folds(patients, 3, 0)
    assert sorted(len(of["lacks"]) for of in balance["by_fold"]) == [0, 1, 1]
    assert "has no patient with label 1" in site_folds.balance_words(balance)


def test_the_program_reads_sites_from_barcodes_and_leaves_unlabelled_patients_out(tmp_path):
    patients = tcga_like(patients=100, sites=10, prevalence=0.4)
    for row in patients[::10]:
        row["label"] = None
    cohort = write_cohort(tmp_path / "tcga.tsv", patients, slides_each=2)
    rows, balance = split(tmp_path, cohort)
    known = {row["patient"]: row for row in patients if row["label"] is not None}
    assert {row["patient"] for row in rows} == set(known)
    assert all(row["site"] == row["patient"][5:7] for row in rows)
    assert all(row["label"] == known[row["patient"]]["label"] for row in rows)
    assert (balance["unlabelled"], balance["target"]) == (10, "MSI")


def test_files_are_the_same_bytes_for_the_same_seed(tmp_path):
    cohort = write_cohort(tmp_path / "tcga.tsv", tcga_like(patients=100, sites=10))
    for name in ("one", "two"):
        split(tmp_path, cohort, name, seed=7)
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_fewer_sites_than_folds_are_refused_but_may_leak(tmp_path):
    cohort = write_cohort(tmp_path / "tcga.tsv", tcga_like(patients=60, sites=4, prevalence=0.4))
    with pytest.raises(InputError, match=r"sites: found 4 for 5 folds; ask for fewer folds"):
        split(tmp_path, cohort)
    rows, _ = split(tmp_path, cohort, leaking=True)
    assert len(rows) == 60


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "BRAF"}, "column BRAF"),
        ({"folds": 2}, "folds: found 2; give 3 or more"),
    ],
)
def test_unknown_targets_and_too_few_folds_are_refused(tmp_path, changes, said):
    cohort = write_cohort(tmp_path / "tcga.tsv", tcga_like(patients=60, sites=8))
    with pytest.raises(InputError, match=said):
        split(tmp_path, cohort, **changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("patient\tsite", "person\tsite", "column patient"),
        ("\t0\n", "\tx\n", "line 2, fold: found 'x'"),
        ("p1\t", "p0\t", "p0 again"),
    ],
)
def test_a_damaged_table_of_folds_is_refused(tmp_path, old, new, said):
    path = tmp_path / "folds.tsv"
    rows = [{"patient": f"p{i}", "site": "s", "label": i % 2, "fold": 0} for i in range(4)]
    site_folds.FOLDS.write(path, rows)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        site_folds.read_folds(path)

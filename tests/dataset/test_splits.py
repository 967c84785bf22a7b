"""Splits: each sample in its place, no donor in two splits unless somebody says so in words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import split_donors
from pairscape.core.errors import InputError
from pairscape.core.files import write_json
from pairscape.core.tsv import read_tsv
from pairscape.dataset.leakage import (
    LEAKAGE,
    describe_leaks,
    donor_group,
    find_leaks,
    read_leaks,
)
from pairscape.dataset.splits import (
    SPLITS_TABLE,
    as_text,
    make_splits,
    read_splits,
    read_with_leaks,
    refuse_recorded,
)

ROOT = Path(__file__).parents[2]
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
DONOR = {"method": "donor", "seed": 1, "fractions": FRACTIONS}


def samples_of(**donors):
    return [{"sample": sample, "donor": donor} for sample, donor in donors.items()]


def published(panel, facts):
    samples = [row for row in read_tsv(facts) if row["panel"] == panel]
    rows = read_tsv(ROOT / "config" / "published" / "splits.tsv", ["panel", "sample", "split"])
    chosen = [row for row in rows if row["panel"] == panel and row["split"] != "paired_w_addon"]
    names = {row["sample"] for row in chosen}
    return [row for row in samples if row["sample"] in names], chosen


def test_the_published_lung_split_leaks_exactly_the_known_donors(shared):
    samples, rows = published("human-lung-healthy-panel", shared / "facts" / "samples.tsv")
    made = make_splits(samples, {"method": "published", "shared_donors": "as published"}, rows)
    leaks = find_leaks(made)
    assert {(leak["donor"], leak["other_split"], leak["split"]) for leak in leaks} == {
        ("VUILD78", "train", "test"),
        ("VUILD96", "train", "test"),
        ("TILD117", "val", "test"),
        ("VUILD91", "train", "val"),
    }
    assert {leak["finding"] for leak in leaks} == {"same_donor"}


@pytest.mark.parametrize(("other", "share"), [("train", 0.52), ("val", 0.25)])
def test_the_leaks_touch_the_known_shares_of_the_lung_test_spots(shared, other, share):
    samples, rows = published("human-lung-healthy-panel", shared / "facts" / "samples.tsv")
    spots = {row["sample"]: int(row["hest_spots"]) for row in samples}
    made = make_splits(samples, {"method": "published", "shared_donors": "yes"}, rows, spots)
    of_test = sum(row["spots"] for row in made if row["split"] == "test")
    touched = sum(
        leak["spots"]
        for leak in find_leaks(made)
        if (leak["split"], leak["other_split"]) == ("test", other)
    )
    assert touched / of_test == pytest.approx(share, abs=0.005)


def test_the_published_lung_split_is_refused_without_words(shared):
    samples, rows = published("human-lung-healthy-panel", shared / "facts" / "samples.tsv")
    with pytest.raises(InputError, match=r"VUILD78.*VUILD96.*shared_donors"):
        make_splits(samples, {"method": "published"}, rows)


def test_the_published_skin_sample_in_two_splits_is_found(shared):
    samples, rows = published("human-skin-panel", shared / "facts" / "samples.tsv")
    made = make_splits(samples, {"method": "published", "shared_donors": "yes"}, rows)
    (leak,) = find_leaks(made)
    assert (leak["finding"], leak["sample"]) == ("same_sample", "TENX117")
    assert (leak["split"], leak["other_split"]) == ("test", "val")


@pytest.mark.parametrize("panel", ["5k", "breast", "colon", "immuno-oncology", "multi-tissue"])
def test_the_other_published_panels_have_no_known_leak(shared, panel):
    samples, rows = published(f"human-{panel}-panel", shared / "facts" / "samples.tsv")
    assert not find_leaks(make_splits(samples, {"method": "published"}, rows))


def test_a_donor_planted_in_two_splits_is_refused_in_one_line():
    samples = samples_of(A1="A", A2="A", B1="B", C1="C")
    split = {"method": "listed", "train": ["A1", "B1"], "val": ["C1"], "test": ["A2"]}
    with pytest.raises(InputError) as refusal:
        make_splits(samples, split, place="datasets.x.split", source="config.yaml")
    message = str(refusal.value)
    assert message.startswith("config.yaml: datasets.x.split: found donor A (A1 in train, A2 in")
    assert 'shared_donors: "<reason>"' in message
    assert "\n" not in message
    assert "donor B" not in message


@pytest.mark.parametrize("words", ["", "  ", None])
def test_empty_words_acknowledge_nothing(words):
    split = {"method": "listed", "train": ["A1"], "test": ["A2"], "shared_donors": words}
    with pytest.raises(InputError, match="more than one split"):
        make_splits(samples_of(A1="A", A2="A"), split)


def test_an_acknowledged_leak_is_told_on_the_rows_it_touches_only():
    split = {
        "method": "listed",
        "train": ["A1", "B1"],
        "test": ["A2"],
        "shared_donors": "one tumour",
    }
    rows = make_splits(samples_of(A1="A", A2="A", B1="B"), split)
    assert {row["sample"]: row["shared_donors"] for row in rows} == {
        "A1": "one tumour",
        "A2": "one tumour",
        "B1": "",
    }
    assert [leak["acknowledged"] for leak in find_leaks(rows)] == ["one tumour"]
    assert describe_leaks(find_leaks(rows)) == ["donor A (A1 in train, A2 in test)"]


def test_a_sample_in_two_splits_is_refused():
    split = {"method": "listed", "train": ["A1"], "val": ["B1"], "test": ["B1"]}
    with pytest.raises(InputError, match=r"donor B \(B1 in val, B1 in test\)"):
        make_splits(samples_of(A1="A", B1="B"), split)


@pytest.mark.parametrize("seed", range(20))
def test_donors_are_dealt_whole_and_about_as_asked(seed):
    samples = samples_of(**{f"S{i}": f"D{i // 2}" for i in range(24)})
    spots = {f"S{i}": 100 + 37 * (i * 7 % 11) for i in range(24)}
    rows = make_splits(samples, {**DONOR, "seed": seed}, spots=spots)
    splits = {}
    for row in rows:
        splits.setdefault(row["donor"], set()).add(row["split"])
    assert all(len(of) == 1 for of in splits.values())
    assert len(rows) == 24
    largest = max(spots[f"S{2 * i}"] + spots[f"S{2 * i + 1}"] for i in range(12))
    for name, share in FRACTIONS.items():
        found = sum(row["spots"] for row in rows if row["split"] == name)
        assert abs(found - share * sum(spots.values())) <= largest


def test_the_seed_alone_decides_the_deal():
    samples = samples_of(**{f"S{i}": f"D{i}" for i in range(12)})
    deals = [
        tuple((row["sample"], row["split"]) for row in make_splits(given, {**DONOR, "seed": seed}))
        for seed in (1, 2, 3, 4)
        for given in (samples, samples[::-1])
    ]
    assert deals[0::2] == deals[1::2]
    assert len(set(deals)) > 1


def test_a_donor_split_spreads_each_disease_over_the_splits():
    samples = [
        {"sample": f"S{i:02d}", "donor": f"D{i:02d}", "organ": "Lung", "disease_state": state}
        for i, state in enumerate(["Healthy"] * 10 + ["Cancer"] * 10)
    ]
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    for seed in range(5):
        rows = make_splits(samples, {**DONOR, "seed": seed, "fractions": fractions})
        for name, donors in (("train", 6), ("val", 2), ("test", 2)):
            states = [row["disease_state"] for row in rows if row["split"] == name]
            assert states.count("Healthy") == states.count("Cancer") == donors


def test_samples_of_one_title_stay_together_where_a_donor_is_not_known():
    samples = [
        {"sample": f"S{i}", "donor": f"D{i}", "donor_known": known, "title": title}
        for i, (known, title) in enumerate(
            [("True", "a"), ("False", "a"), ("True", "b"), ("True", "b"), ("False", "")]
        )
    ]
    assert sorted(set(donor_group(samples).values())) == ["D0", "D2", "D3", "D4"]
    for seed in range(10):
        place = {r["sample"]: r["split"] for r in make_splits(samples, {**DONOR, "seed": seed})}
        assert place["S0"] == place["S1"]
    with pytest.raises(InputError, match=r"D1 may be one of them: same title, donor not known"):
        make_splits(samples[:3], DONOR)


def test_over_all_folds_each_donor_tests_once_and_validates_once():
    samples = samples_of(A1="A", A2="A", B1="B", C1="C", D1="D")
    places = []
    for fold in range(4):
        split = {"method": "leave_one_donor_out", "fold": fold, "seed": 3}
        rows = make_splits(samples, split)
        assert not find_leaks(rows)
        places.append({row["donor"]: row["split"] for row in rows})
        assert places[-1]["ABCD"[fold]] == "test"
    for donor in "ABCD":
        assert sorted(of[donor] for of in places) == ["test", "train", "train", "val"]


def test_a_split_of_a_file_places_its_samples_and_refuses_others():
    split = {"method": "file", "file": "mine.tsv"}
    rows = [{"sample": "A1", "split": "train"}, {"sample": "B1", "split": "test"}]
    made = make_splits(samples_of(A1="A", B1="B"), split, rows)
    assert {row["sample"]: row["split"] for row in made} == {"A1": "train", "B1": "test"}
    with pytest.raises(
        InputError, match=r"mine\.tsv: column split: found 'tests'; did you mean test"
    ):
        make_splits(samples_of(A1="A"), split, [{"sample": "A1", "split": "tests"}])
    with pytest.raises(InputError, match=r"mine\.tsv: column sample: found 'B1'"):
        make_splits(samples_of(A1="A"), split, rows)
    with pytest.raises(InputError, match="no split for C1"):
        make_splits(samples_of(A1="A", B1="B", C1="C"), split, rows)


@pytest.mark.parametrize(
    ("panel", "donors"),
    [("5k", 7), ("breast", 5), ("colon", 4), ("immuno-oncology", 5), ("lung-healthy", 15)],
)
def test_each_published_panel_with_enough_donors_has_a_donor_split(panel, donors):
    samples = [
        row
        for row in read_tsv(ROOT / "config" / "samples.tsv")
        if row["panel"] == f"human-{panel}-panel"
    ]
    assert len(set(donor_group(samples).values())) == donors
    rows = make_splits(samples, DONOR)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    facts = {row["sample"]: row for row in samples}
    assert {leak["finding"] for leak in find_leaks(rows, facts)} <= {"same_slide"}


def test_one_huge_donor_leaves_no_split_empty():
    samples = samples_of(A="A", B="B", C="C")
    for seed in range(10):
        rows = make_splits(samples, {**DONOR, "seed": seed}, spots={"A": 10**6, "B": 1, "C": 0})
        assert [row["split"] for row in rows] == ["train", "val", "test"]


def test_too_few_donors_are_refused():
    with pytest.raises(InputError, match=r"2 donor\(s\) \(A, B\) for 3 splits; add samples"):
        make_splits(samples_of(A1="A", A2="A", B1="B"), DONOR)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({**DONOR, "fractions": {"train": 0.9, "val": 0.2, "test": 0.1}}, "add up to 1"),
        (
            {"method": "listed", "train": ["A1", "X"], "test": ["B1"]},
            "'X'; allowed .samples of this",
        ),
        ({"method": "listed", "train": ["A1"]}, "no split for B1, C1"),
        ({"method": "published"}, "no split for A1, B1, C1"),
        ({"method": "leave-one-out"}, "allowed: published, donor, leave_one_donor_out, listed"),
        ({"method": "leave_one_donor_out", "fold": 3}, "fold: found 3; allowed: 0 to 2"),
    ],
)
def test_a_wrong_split_is_refused(split, message):
    with pytest.raises(InputError, match=message):
        make_splits(samples_of(A1="A", B1="B", C1="C"), split)


def test_a_sample_without_a_donor_is_refused():
    with pytest.raises(InputError, match="sample B1, donor: found nothing"):
        make_splits(samples_of(A1="A", B1=""), {"method": "listed", "train": ["A1", "B1"]})


def test_planning_a_split_imports_nothing_heavy():
    program = (
        "import sys, pairscape.dataset.splits; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'pandas', 'pyarrow', 'datasets')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT / "scripts")


def run_program(tmp_path, split, samples, audits=None):
    for row in samples:
        write_json(tmp_path / f"{row['sample']}.json", {"sample": row["sample"], "spots": 10})
    for name, audit in (audits or {}).items():
        write_json(tmp_path / f"{name}.json", audit)
    options = {"dataset": "x", "split": split, "samples": samples}
    split_donors.main(
        [
            "--spots",
            *(str(tmp_path / f"{row['sample']}.json") for row in samples),
            "--splits",
            str(tmp_path / "splits.tsv"),
            "--leakage",
            str(tmp_path / "leakage.tsv"),
            "--options",
            json.dumps(options),
        ]
    )
    return read_splits(tmp_path / "splits.tsv"), read_leaks(tmp_path / "leakage.tsv")


def test_the_tables_name_the_leak_and_its_reason(tmp_path):
    samples = samples_of(A1="A", A2="A")
    split = {"method": "listed", "train": ["A1"], "test": ["A2"], "shared_donors": "one tumour"}
    splits, leaks = run_program(tmp_path, split, samples)
    assert [(row["sample"], row["split"], row["spots"]) for row in splits] == [
        ("A1", "train", 10),
        ("A2", "test", 10),
    ]
    assert {row["shared_donors"] for row in splits} == {"one tumour"}
    assert leaks == [
        {
            "finding": "same_donor",
            "level": "acknowledged",
            "donor": "A",
            "sample": "A2",
            "split": "test",
            "other_sample": "A1",
            "other_split": "train",
            "encoder": "",
            "spots": 10,
            "share_of_split": "1.0000",
            "acknowledged": "one tumour",
            "detail": "",
        }
    ]


def test_a_refused_split_writes_nothing(tmp_path):
    split = {"method": "listed", "train": ["A1"], "test": ["A2"]}
    with pytest.raises(InputError, match=r"datasets\.x\.split: found donor A"):
        run_program(tmp_path, split, samples_of(A1="A", A2="A"))
    assert not (tmp_path / "splits.tsv").exists()


@pytest.mark.parametrize(
    ("audit", "message"),
    [({"sample": "B1", "spots": 3}, "give the audit of A1"), ({"sample": "A1"}, "isn't its audit")],
)
def test_a_wrong_audit_is_refused(tmp_path, audit, message):
    split = {"method": "listed", "train": ["A1"], "test": ["B1"]}
    with pytest.raises(InputError, match=message):
        run_program(tmp_path, split, samples_of(A1="A", B1="B"), {"A1": audit})


def edited(folder, words=""):
    """splits.tsv and leakage.tsv of a sound split; then S1 of train is put into test, too."""
    rows = make_splits(
        [{"sample": f"S{i}", "donor": f"D{i}"} for i in (1, 2)],
        {"method": "listed", "train": ["S1"], "test": ["S2"]},
    )
    LEAKAGE.write(folder / "leakage.tsv", find_leaks(rows))
    rows.append({**rows[0], "split": "test", "shared_donors": words})
    SPLITS_TABLE.write(folder / "splits.tsv", rows)
    return folder / "splits.tsv", folder / "leakage.tsv"


def test_a_table_that_was_edited_into_a_leak_is_refused_wherever_it_is_read(tmp_path):
    path, told = edited(tmp_path)
    for read in (lambda: read_splits(path), lambda: read_with_leaks(path, told)):
        with pytest.raises(InputError, match=r"donor D1 \(S1 in train, S1 in test\)") as refusal:
            read()
        assert "splits.tsv: column split" in str(refusal.value)
        assert "split: {method: file}" in refusal.value.remedy


def test_words_in_the_table_are_honoured_but_must_have_been_told(tmp_path):
    path, told = edited(tmp_path, "known")
    rows = read_splits(path)
    assert len(rows) == 3
    with pytest.raises(InputError, match=r"leakage.tsv: finding: found nothing of donor D1"):
        read_with_leaks(path, told)
    LEAKAGE.write(told, find_leaks(rows))
    assert read_with_leaks(path, told)[0] == rows


def test_the_splits_that_a_run_recorded_are_judged_by_the_same_rule(tmp_path):
    rows = as_text(SPLITS_TABLE.read(edited(tmp_path)[0]))
    with pytest.raises(InputError, match=r"options.json: splits: found donor D1 .* in more than"):
        refuse_recorded(rows, "options.json")
    refuse_recorded(rows[:2], "options.json")


def test_every_program_reads_splits_by_the_function_that_judges_them():
    """A program with a flag for splits.tsv reads it by ``read_splits``, or what calls that."""
    raw = re.compile(r"(?:read_tsv|SPLITS_TABLE\.read|read_numbers)\([^)]*splits")
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        if path.parent.name != "plan" and path.name != "audit_splits.py":
            assert not raw.search(path.read_text()), path


def test_a_thousand_samples_are_dealt_without_counting_all_for_each_move(monkeypatch):
    """A plan is read by Snakemake for each job: it can't take half a minute."""
    from pairscape.dataset import splits

    counted = []
    original = splits._held
    monkeypatch.setattr(splits, "_held", lambda *args: counted.append(1) or original(*args))
    rows = [{"sample": f"s{i}", "donor": f"d{i}", "donor_known": "True"} for i in range(1000)]
    fractions = {"train": 0.7, "val": 0.15, "test": 0.15}
    made = make_splits(rows, {"method": "donor", "seed": 0, "fractions": fractions})
    assert len(made) == 1000
    assert len(counted) <= 3 * splits.ORDERS

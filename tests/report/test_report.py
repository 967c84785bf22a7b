"""The report page: complete, self-contained, escaped, and honest about what is missing."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_tables import expected, scores, written
from tiny_pairs import write_splits

import write_report
from pairscape.calibrate import calibration
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.dataset.leakage import LEAKAGE, find_leaks
from pairscape.dataset.splits import SPLITS_TABLE, read_splits
from pairscape.report import audit_table, chapters, layout
from pairscape.report import page as report

VOID = {"meta", "img", "br", "link", "hr", "input"}
# Those that make_inputs gives something of, and "missing", as runs of it are.
CHAPTERS = ("found", "about", "data", "retrieval", "missing", "provenance")
NASTY = '<script>alert("x")</script> & "quoted"'


class Page(HTMLParser):
    """Collects what a browser would see, and refuses tags that don't close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            assert attrs["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def write_png(path, size=(60, 40), noise=False, gene=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape) if noise else np.full(shape, 200)
    said = PngInfo()
    if gene:
        said.add_text("Gene", gene)
    Image.fromarray(pixels.astype(np.uint8)).save(path, pnginfo=said)
    return path


def make_inputs(root, leaked=False):
    audit = {
        "sample": "S1",
        "spots_name": "square55",
        "rows_read": 1000,
        "pooled": 700,
        "dropped": {"not_a_gene": 100, "low_quality": 200},
        "spots": 36,
        "transcripts_per_spot": {"median": 19.5},
        "genes_per_spot": {"median": 11},
        "inputs": {"transcripts.parquet": "f" * 64},
    }
    finding = {"level": "warning", "field": NASTY, "found": "1", "expected": "2", "remedy": "mend"}
    check = {"sample": "S1", "verdict": "warning", "findings": [finding], "facts": {"cells": 12}}
    spots = root / "samples/S1/square55"
    spots.mkdir(parents=True)
    files.write_json(spots / "audit.json", audit)
    files.write_json(root / "samples/S1/check.json", check)
    dataset = root / "datasets/demo"
    words = "one patient, acknowledged" if leaked else ""
    places = [("S1", "D1", "train"), ("S2", "D1" if leaked else "D2", "test")]
    write_splits(dataset / "splits.tsv", places, spots=36, shared_donors=words)
    leaks = find_leaks(read_splits(dataset / "splits.tsv"))
    LEAKAGE.write(dataset / "leakage.tsv", leaks)
    run = root / "runs/e/demo/uni-mlp/seed24442"
    files.write_json(
        run / "options.json",
        {
            "experiment": "e",
            "dataset": "demo",
            "image_encoder": "uni",
            "gene_encoder": "mlp",
            "seed": 24442,
            "pairs": {"train": 36, "test": 36},
            "versions": {"torch": "2.15.0"},
            "git_commit": "abc123",
        },
    )
    written(root, scores(dataset="demo"), expected("demo", seeds=(1, 2)))
    (root / "t.tsv").rename(root / "retrieval_e.tsv")
    return {
        "tables": root / "retrieval_e.tsv",
        "figures": write_png(root / "figures/retrieval_e.png"),
        "curves": write_png(run / "curve.png"),
        "checks": root / "samples/S1/check.json",
        "audits": spots / "audit.json",
        "spot-figures": write_png(spots / "qc.png", gene="EPCAM"),
        "splits": dataset / "splits.tsv",
        "leakage": dataset / "leakage.tsv",
        "run-options": run / "options.json",
    }


def write(root, inputs, **options):
    argv = ["--report", str(root / "report.html"), "--options", json.dumps(options)]
    for flag, path in inputs.items():
        argv += [f"--{flag}", *([str(path)] if not isinstance(path, list) else map(str, path))]
    write_report.main(argv)
    text = (root / "report.html").read_text()
    return text, Page(text)


def section(text, name):
    """The HTML of a chapter."""
    return text.split(f'<section id="{name}">')[1].split("</section>")[0]


def words(html):
    """What a reader reads of some HTML, on one line."""
    return " ".join("".join(Page(html).text).split())


def sample_row(**changes):
    return {"sample": "S1", "source": "simulated", "donor": "D1", "donor_known": "True"} | changes


def test_the_page_is_complete_and_self_contained(tmp_path):
    text, page = write(tmp_path, make_inputs(tmp_path), title="A demo", samples=[sample_row()])
    assert text.startswith("<!DOCTYPE html>")
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert set(CHAPTERS) <= anchors <= set(page.ids)
    outside = [link for link in page.links if not link.startswith(("#", "data:image/"))]
    assert outside == []
    assert not re.search(r"url\(|@import|https?://", text)
    # Its one script asks nothing of the network, and no table waits for it.
    assert page.tags.count("script") == 1
    script = text.split("<script>")[1].split("</script>")[0]
    assert not re.search(r"fetch|XMLHttpRequest|import\(|WebSocket|src", script)
    assert page.tags.count("img") == 3
    for told in ("A demo", "0.200 (0.100)", "700 (70.0%)", "EPCAM", "abc123", "torch 2.15.0"):
        assert told in "".join(page.text)


def test_the_chapters_stand_in_order_in_the_page_and_in_its_contents(tmp_path):
    text, page = write(tmp_path, make_inputs(tmp_path), samples=[sample_row()])
    assert re.findall(r'<section id="([^"]+)">', text) == list(CHAPTERS)
    assert [link[1:] for link in page.links if link.startswith("#")][: len(CHAPTERS)] == list(
        CHAPTERS
    )
    # Spots and training are parts of the data.
    data = section(text, "data")
    assert [name for name in page.ids if name not in CHAPTERS] == ["spots", "training"]
    assert 'id="spots"' in data
    assert 'alt="Training curve of uni-mlp, seed 24442"' in data


def test_texts_are_escaped(tmp_path):
    inputs = make_inputs(tmp_path)
    text, page = write(tmp_path, inputs, title=NASTY, samples=[sample_row(organ=NASTY)])
    assert text.count("<script") == 1  # the page's own
    assert "".join(page.text).count(NASTY) >= 3


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        (["simulated", "simulated"], "Simulated tissue."),
        (["10x", "simulated"], "Partly simulated tissue."),
        (["10x", "local"], "Measured tissue."),
        ([""], "Origin of the tissue not stated."),
    ],
)
def test_the_page_says_whether_the_tissue_is_simulated(tmp_path, sources, told):
    samples = [sample_row(source=source) for source in sources]
    _, page = write(tmp_path, {}, samples=samples)
    assert told in "".join(page.text)


def test_shared_donors_are_said(tmp_path):
    _, page = write(tmp_path, make_inputs(tmp_path, leaked=True))
    told = "".join(page.text)
    assert "Its splits share donors." in told
    assert "one patient, acknowledged" in told


def test_samples_that_were_left_out_are_said(tmp_path):
    lost = "breast is without sample S<1> (its share of the spots is not known): status 404"
    inputs = make_inputs(tmp_path)
    _, page = write(tmp_path, inputs, left_out=[lost])
    assert lost in "".join(page.text)
    _, page = write(tmp_path, inputs)
    assert "left out" not in "".join(page.text)


def test_disjoint_donors_are_said(tmp_path):
    _, page = write(tmp_path, make_inputs(tmp_path))
    assert "No donor stands in two of its splits." in "".join(page.text)


def test_what_was_planned_and_is_missing_is_named(tmp_path):
    text, page = write(tmp_path, make_inputs(tmp_path))
    assert "Not everything that was planned has been run." in "".join(page.text)
    named = re.findall("<li>([^<]+)</li>", section(text, "missing"))
    assert "Retrieval, experiment e: demo, uni with mlp, seed 1, 2" in named
    assert not {chapter.heading for chapter in chapters.CHAPTERS.values()} & set(named)


def test_what_was_never_asked_for_is_no_chapter_and_not_called_missing(tmp_path):
    _, page = write(tmp_path, {})
    names = {name.replace("_", "-") for name in chapters.CHAPTERS}
    assert not (names | {"missing"}) & set(page.ids)
    assert not {f"#{name}" for name in names | {"missing"}} & set(page.links)
    told = "".join(page.text)
    assert "Not run" not in told
    assert "Not everything that was planned" not in told


def test_every_colour_of_the_page_has_a_dark_one_and_its_contents_stay_in_sight(tmp_path):
    style = write(tmp_path, {})[0].split("<style>")[1].split("</style>")[0]
    light, dark = (
        set(re.findall(r"(--\w+):", part)) for part in re.findall(":root {(.*?)}", style)
    )
    assert light == dark
    assert set(re.findall(r"var\((--\w+)\)", style)) <= dark
    assert re.search(r"\nnav {[^}]*position: sticky", style)


def test_the_page_begins_with_the_tissue_of_a_test_section(tmp_path):
    inputs = make_inputs(tmp_path)
    other = tmp_path / "samples/S2/square55/qc.png"
    write_png(other, gene="KRT8")
    inputs["spot-figures"] = [inputs["spot-figures"], other]
    text, page = write(tmp_path, inputs)
    first = re.search("<figure.*?</figure>", text, re.DOTALL)
    assert "Spots of sample S2" in first[0]  # S1 is of the train split
    assert text.index('id="found"') < first.start() < text.index('id="about"')
    assert text.count("Transcripts of KRT8") == 1
    assert "Figures of 1 more sample" in "".join(page.text)


def test_alternative_texts_say_the_result(tmp_path):
    text, _ = write(tmp_path, make_inputs(tmp_path))
    alts = re.findall('alt="([^"]*)"', text)
    (retrieval,) = (alt for alt in alts if alt.startswith("Retrieval, experiment e"))
    assert "Recall@5 0.200" in retrieval
    assert "chance is 0.010" in retrieval
    (spots,) = (alt for alt in alts if alt.startswith("Spots of sample S1"))
    assert spots.endswith("36 spots hold 700 of 1,000 rows of transcripts.")


PAIR = {"dataset": "lung", "image_encoder": "uni", "gene_encoder": "mlp", "control": ""}


@pytest.mark.parametrize(
    ("stem", "rows", "said"),
    [
        (
            "expression",
            [
                {**PAIR, "metric": "pearson", "recipe": "corrected", "before": 0.2, "after": after}
                | {"control": control}
                for after, control in ((0.3, ""), (0.4, "ceiling"), (None, ""), (0.1, ""))
            ],
            "lung, corrected recipe: best is uni with mlp, mean Pearson 0.300 (0.200 as it came).",
        ),
        (
            "mutation",
            [
                {"mutation": "m", "cohort": "c", "target": "TP53", "model": model, "auroc": auroc}
                for model, auroc in (("a", 0.6), ("b", 0.7), ("c", None))
            ],
            "m, TP53 in c: best is b, AUROC 0.700.",
        ),
        (
            "batch_effect",
            [
                {"batch": batch, "silhouette_batch": score}
                for batch, score in (
                    ("split", 0.9),
                    ("split", 0.5),
                    ("donor", 0.1),
                    ("split", None),
                )
            ],
            "Silhouette-batch of the splits: 0.50 to 0.90 (1: mixed, 0: apart).",
        ),
        (
            "calibration",
            [
                {"score": score, "of": "", "gallery": "split", "donors": "apart"}
                | {"morphology_signal_spearman": 0.91}
                for score in (calibration.RECALL, calibration.PEARSON)
            ],
            "Recall@5, the whole split, donors apart: Spearman with the morphology signal 0.91.",
        ),
        (
            "hits",
            [
                {**PAIR, "query": query, "rank": rank, "gallery_size": 50.0}
                for query, rank in (("best", 1.0), ("median", 7.0), ("bad", 40.0), ("median", 9.0))
            ],
            "lung: the median queries have their partner at ranks 7 to 9 of 50.",
        ),
    ],
)
def test_a_table_says_its_result_in_a_sentence(stem, rows, said):
    tables = [one for chapter in chapters.CHAPTERS.values() for one in chapter.tables]
    kind = next(one for one in tables if one.stem == stem)
    assert kind.says(rows) == said
    assert kind.says([]) == ""


def test_what_all_rows_share_is_said_once_and_what_says_nothing_is_left_out():
    section = layout.section(
        "",
        ["Dataset", "Encoder", "Note", "Recall", "Queries"],
        [
            ["lung", "chance", "", "0.010", "50"],
            ["lung", "uni", "", "0.200 (0.1)", "50"],
            ["lung", "conch", "", "0.300", "50"],
        ],
        chance=[0],
    )
    columns = report.shown_columns(section)
    assert columns.same == [("Dataset", "lung"), ("Queries", "50")]
    assert columns.shown == [1, 3]
    # A column of which chance says something else stays, and a table of one row is whole.
    section["rows"][0][4] = "60"
    assert report.shown_columns(section).shown == [1, 3, 4]
    one = layout.section("", ["Dataset", "Recall"], [["lung", "0.2"]])
    # Neither said nor run is one thing.
    blank = layout.section("", ["A", "B"], [["1", ""], ["2", layout.NOT_RUN]])
    assert report.shown_columns(blank).same == [("B", layout.NOT_RUN)]
    assert (report.shown_columns(one).shown, report.shown_columns(one).same) == ([0, 1], [])
    assert report.shown_columns(one).numbers == {1}


def test_retrieval_stands_before_calibration():
    assert list(chapters.CHAPTERS)[:2] == ["retrieval", "calibration"]


def test_ablations_have_a_chapter_of_their_own(tmp_path):
    inputs = make_inputs(tmp_path)
    table = shutil.copy(inputs["tables"], tmp_path / "retrieval_ablation_loss_clip.tsv")
    figure = write_png(tmp_path / "figures/retrieval_ablation_loss_clip.png")
    inputs["tables"], inputs["figures"] = [inputs["tables"], table], [inputs["figures"], figure]
    text, _ = write(tmp_path, inputs)
    ablations, retrieval = section(text, "ablations"), section(text, "retrieval")
    assert "Retrieval, experiment ablation_loss_clip" in words(ablations)
    assert "0.200 (0.100)" in words(ablations)
    assert ablations.count("<figure") == retrieval.count("<figure") == 1
    assert "ablation_loss_clip" not in retrieval
    assert "Retrieval, experiment e" in words(retrieval)


def audit_row(**changes):
    row = dict.fromkeys(audit_table.COLUMNS, "") | {
        **{"audit": "lung", "start": "corrected", "image_encoder": "uni", "gene_encoder": "mlp"},
        **{"gallery": "split", "direction": "both", "recall_at": 5, "value": 0.2, "chance": 0.01},
        **{"seeds": 1, "queries": 50, "status": "scored"},
    }
    return row | changes


def audit_inputs(root):
    """A flag that was scored, one whose run is missing, and one that can't be tried."""
    scored = {"flag": "last_checkpoint", "findings": "H4", "meaning": "the last weights are tested"}
    numbers = {"difference": 0.125, "difference_low": 0.05, "difference_high": 0.2, "paired": "yes"}
    lacking = {"flag": "adam_betas", "status": "not run", "value": "", "seeds": 0}
    idle = {"flag": "conch_trunk", "status": "not tried", "why_not": "no CONCH", "value": ""}
    rows = [
        row | {"direction": direction}
        for row in (audit_row(), audit_row(**scored, **numbers), audit_row(**lacking))
        for direction in ("both", "i2g", "g2i")
    ]
    rows.append(audit_row(**idle, gallery="", direction=""))
    table = root / "audit_lung.tsv"
    audit_table.TABLE.write(table, rows)
    return {"tables": table, "figures": write_png(root / "figures/audit_lung.png")}


def test_the_audit_has_a_chapter_with_its_table_and_a_caption_that_stands_alone(tmp_path):
    text, _ = write(tmp_path, audit_inputs(tmp_path))
    chapter = section(text, "audit")
    told = words(chapter)
    assert "Audit lung" in told
    says = (
        "Audit lung. From corrected, last checkpoint changes Recall@5 of the whole split most, by "
    )
    assert f'alt="{says}+0.125."' in chapter
    assert "+0.125 [+0.050 to +0.200]" in told
    assert "not tried: no CONCH" in told
    (caption,) = re.findall("<figcaption>(.*?)</figcaption>", chapter, re.DOTALL)
    for part in (
        "Recall@5",
        "one flag of the published protocol",
        "95 %",
        "batches of 64",
        "whole",
    ):
        assert part in caption
    missing = re.findall("<li>([^<]+)</li>", section(text, "missing"))
    assert "Audit lung: from corrected, Adam betas, uni with mlp: not run" in missing
    assert "Audit" not in missing


def test_donors_are_counted_by_what_is_known_of_them():
    rows = [
        sample_row(sample="S1", donor="A", donor_known="True"),
        sample_row(sample="S2", donor="A", donor_known="False"),  # one row's word is enough
        sample_row(sample="S3", donor="B", donor_known="True"),
        sample_row(sample="S4", donor="bundle4", donor_known="False"),
        sample_row(sample="S5", donor="bundle5", donor_known="False"),
        sample_row(sample="S5", donor="bundle5", donor_known="False"),  # in two splits
        sample_row(sample="S6", donor="C", donor_known=""),
    ]
    counted = {"samples": 6, "donors": 5, "known": 2, "placeholders": 2, "unstated": 1, "least": 2}
    assert report.count_donors(rows) == counted
    assert report.count_donors(rows[3:6])["least"] == 1
    assert report.count_donors([])["least"] == 0


def test_the_page_prints_how_many_samples_and_donors_there_are(tmp_path):
    inputs = make_inputs(tmp_path)
    columns = ["sample", "donor", "donor_known", "split"]
    values = [
        ("S1", "A", "True", "train"),
        ("S2", "b2", "False", "val"),
        ("S3", "b3", "False", "test"),
    ]
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    rest = dict.fromkeys(SPLITS_TABLE.names, "")
    SPLITS_TABLE.write(inputs["splits"], [{**rest, **row} for row in rows])
    samples = [sample_row(**row) for row in rows]
    samples += [sample_row(sample="S4", donor="B")]
    text, _ = write(tmp_path, inputs, samples=samples)
    told = words(section(text, "data"))
    assert "4 samples of 4 donors: 2 are known to be distinct persons, 2 are placeholders." in told
    assert "these samples are of at least 2 and at most 4 persons" in told
    cells = re.findall(r'<th scope="row">([^<]*)</th>(.*?)</tr>', section(text, "data"))
    assert [(name, re.findall(">([0-9]+)<", row)) for name, row in cells] == [
        ("demo", ["3", "3", "1", "2"]),
        ("All samples of this report", ["4", "4", "2", "2"]),
    ]


def image_of(uris, path):
    return Image.open(io.BytesIO(base64.b64decode(uris[str(path)].partition(",")[2])))


def test_large_images_are_scaled_to_fit_the_page(tmp_path):
    paths = [write_png(tmp_path / f"{i}.png", (1700, 900), True) for i in range(2)]
    uris = report.embed_images(paths, budget=300_000)
    assert sum(len(uri) * 3 / 4 for uri in uris.values()) <= 300_100
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris.values())


@pytest.mark.slow
def test_figures_are_scaled_less_than_what_is_only_looked_through(tmp_path):
    def widths(uris, paths):
        return [image_of(uris, path).width for path in paths]

    few = [write_png(tmp_path / "figure.png", (1700, 900), True)]
    many = [write_png(tmp_path / f"{i}.png", (1700, 900), True) for i in range(6)]
    uris = report.embed_images(few, many, budget=1_500_000)
    assert widths(uris, few)[0] > max(widths(uris, many))
    assert sum(len(uri) * 3 / 4 for uri in uris.values()) <= 1_500_500


def test_each_image_is_decoded_once_and_the_budget_is_kept_by_the_greatest_width(
    tmp_path, monkeypatch
):
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or open_image(path))
    paths = [write_png(tmp_path / f"{i}.png", (700, 400), True) for i in range(4)]
    kept = report.embed_images(paths, budget=400_000)
    assert opened == paths
    assert sum(len(uri) * 3 / 4 for uri in kept.values()) <= 400_400
    width = image_of(kept, paths[0]).width
    assert width in report.WIDTHS_PX
    wider = min(one for one in report.WIDTHS_PX if one > width)
    size = sum(len(data) for path in paths for _, data in report._encode(path, [wider]).values())
    assert size > 400_000


def test_lines_stay_sharp_and_tissue_is_small(tmp_path):
    from PIL import ImageDraw

    drawing = Image.new("RGB", (600, 400), "white")
    for i in range(0, 400, 20):
        ImageDraw.Draw(drawing).line([(0, i), (600, 399 - i)], "blue", 2)
    drawing.save(tmp_path / "lines.png")
    tissue = write_png(tmp_path / "tissue.png", (600, 400), True)
    uris = report.embed_images([tmp_path / "lines.png", tissue])
    assert uris[str(tmp_path / "lines.png")].startswith("data:image/png")
    assert uris[str(tissue)].startswith("data:image/jpeg")


def test_a_small_image_stays_as_it_is(tmp_path):
    path = write_png(tmp_path / "a.png", (300, 200))
    uri = report.embed_images([path])[str(path)]
    assert uri.startswith("data:image/png;base64,")


def test_an_audit_that_does_not_add_up_is_refused(tmp_path):
    inputs = make_inputs(tmp_path)
    audit = files.read_json(inputs["audits"])
    files.write_json(inputs["audits"], audit | {"rows_read": 1001})
    with pytest.raises(InputError, match="must add up"):
        write(tmp_path, inputs)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_image_is_refused(tmp_path):
    inputs = make_inputs(tmp_path)
    inputs["curves"].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"curve\.png"):
        write(tmp_path, inputs)


def test_a_table_that_is_no_tsv_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"give the tables as \.tsv"):
        write(tmp_path, {"tables": tmp_path / "t.md"})


def test_another_table_stands_as_it_is(tmp_path):
    tsv.write_tsv(tmp_path / "costs_x.tsv", [{"step": "<b>", "seconds": 3}], ["step", "seconds"])
    _, page = write(tmp_path, {"tables": tmp_path / "costs_x.tsv"})
    assert "Costs, experiment x" in "".join(page.text)
    assert "<b>" in "".join(page.text)


def test_options_without_a_needed_key_are_refused(tmp_path):
    inputs = make_inputs(tmp_path)
    files.write_json(inputs["run-options"], {"experiment": "e"})
    with pytest.raises(InputError, match="dataset"):
        write(tmp_path, inputs)


def test_the_best_is_marked_and_a_run_out_of_memory_is_named(tmp_path):
    rows = scores() + [
        row | {"image_encoder": "conch", "value": row["value"] + 0.1} for row in scores()
    ]
    rows.append(
        dict.fromkeys(rows[0], "")
        | {key: rows[0][key] for key in ("experiment", "dataset", "gene_encoder", "seed")}
        | {"image_encoder": "gigapath", "status": "out of memory"}
    )
    written(tmp_path, rows)
    (tmp_path / "t.tsv").rename(tmp_path / "retrieval_e.tsv")
    text, page = write(tmp_path, {"tables": tmp_path / "retrieval_e.tsv"})
    assert '<span class="best">0.300</span> (0.100)\n[' in text
    assert '<span class="second">0.200</span> (0.100)\n[' in text
    named = "Retrieval, experiment e: breast, gigapath with mlp, out of memory: 24442"
    assert named in "".join(page.text)


@pytest.mark.slow
def test_in_a_browser_a_click_on_a_heading_sorts_and_a_table_is_taken_along(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    samples = [sample_row(sample=name, donor=donor) for name, donor in (("S10", "9"), ("S2", "10"))]
    text, _ = write(tmp_path, make_inputs(tmp_path), samples=[*samples, sample_row(sample="S3")])
    click = """<script>
    const table = [...document.querySelectorAll("table")].find((one) => one.dataset.same);
    const told = [], read = () =>
      told.push([...table.tBodies[0].rows].map((row) => row.cells[1].textContent).join());
    const head = table.tHead.rows[0].cells[1].querySelector("button");
    read(); head.click(); read(); head.click(); read();
    URL.createObjectURL = (blob) => { window.taken = blob; return "#"; };
    table.parentElement.nextElementSibling.click();
    window.taken.text().then((text) => {
      const line = document.createElement("output");
      line.textContent = JSON.stringify([...told, text]);
      document.body.append(line);
    });
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", click + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [browser, *flags, f"--user-data-dir={tmp_path}", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120
    )
    output = re.search("<output>(.*?)</output>", done.stdout, re.DOTALL)[1]
    *orders, taken = json.loads(html.unescape(output))
    assert orders == ["9,10,D1", "9,10,D1", "10,9,D1"]  # by value; words behind numbers
    assert taken.splitlines()[0] == "Source\tDonor known\tSample\tDonor"
    assert sorted(taken.splitlines()[1:]) == [
        f"simulated\tTrue\t{sample}\t{donor}"
        for sample, donor in (("S10", "9"), ("S2", "10"), ("S3", "D1"))
    ]

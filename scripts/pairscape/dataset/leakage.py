"""What one split has seen of another: a table, and a gate.

Findings of whole samples come from the sample table and the splits alone, so no bundle is needed;
findings of patches (``patch_hashes``) are told in the same columns. Imports nothing heavy: the
workflow calls it while Snakemake parses.
"""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core.errors import InputError, one_of
from pairscape.core.files import sha256_json
from pairscape.core.splits import SPLITS
from pairscape.core.tsv import Table, counts, text

LEAKAGE = Table(
    "leakage.tsv",
    "split_donors",
    (
        *text(
            finding="what two splits share",
            level="error, acknowledged (hard, and somebody owns up to it) or warning",
            donor="donor of the sample",
            sample="the sample in the later split (test after val after train)",
            split="its split",
            other_sample="the sample in the earlier split",
            other_split="its split",
            encoder="the encoder that was fitted on the sample",
        ),
        *counts(spots="spots that are touched; patches where patches are compared"),
        *text(
            share_of_split="their share of all in the split",
            acknowledged="the words of `shared_donors`",
            detail="what the finding rests on",
        ),
    ),
)
# What each finding says, in the order in which a pair of samples is told: the first that holds of
# the hard ones, then each soft one. A hard finding stops a run unless somebody owns up to it.
HARD = {
    "same_sample": "the same sample stands in two splits",
    "same_bundle": "two samples of one bundle stand in two splits",
    "same_donor": "a donor stands in two splits",
    "near_identical_sample": "two samples of two splits show the same tissue",
    "encoder_fitted_on": "an encoder was fitted on samples that are held out",
}
SOFT = {
    "same_title": "no source tells whether samples of one title are of one donor",
    "same_slide": "samples of two splits were measured on one slide",
    "near_identical_patches": "patches of two splits are nearly the same picture",
}
FINDINGS = (*HARD, *SOFT)
LEVELS = ("error", "acknowledged", "warning")
SUMMARY = Table(
    "leakage_summary.tsv",
    "audit_splits",
    (
        *text(
            dataset="the dataset",
            finding="what two splits share",
            level="as in `leakage.tsv`",
            split="the later split",
            other_split="the earlier split",
            encoder="the encoder that was fitted on held-out samples",
        ),
        *counts(donors="donors that are touched"),
        *text(donor_names="their names"),
        *counts(samples="samples that are touched", samples_of_split="samples of the split"),
        *text(share_of_samples="the former's share of the latter"),
        *counts(spots="spots of those samples", spots_of_split="spots of the split"),
        *text(
            share_of_spots="the former's share of the latter",
            spots_are="what counted the spots",
            acknowledged="the words of `shared_donors`",
        ),
    ),
)
# Columns of the sample table that a finding may rest on.
FACTS = (
    "title",
    "published_patient",
    "bundle",
    "bundle_name",
    "bundle_url",
    "bundle_checksum",
    "he_image",
)
# Each of them tells that two samples are of one bundle.
BUNDLE_MARKS = ("bundle", "bundle_url", "bundle_checksum", "experiment")
_SLIDE = re.compile(r"^output-[A-Z0-9]+__(\d{4,})__")  # the instrument's name of an output folder


def find_leaks(
    rows: Sequence[Mapping],
    facts: Mapping[str, Mapping] | None = None,
    slides: Mapping[str, str] | None = None,
    fitted_on: Iterable[Mapping] = (),
) -> list[dict]:
    """Find what the splits of a dataset share: one row of ``LEAKAGE`` per pair of samples.

    Two samples of one title whose donors aren't both known may be of one patient: the rule of
    HEST-Benchmark.

    Parameters
    ----------
    rows
        One per sample and split: ``sample``, ``donor``, ``donor_known``, ``split``, ``spots``
        ("" or None where not counted) and ``shared_donors``. Splits other than train, val and test
        count as later ones.
    facts
        Rows of the sample table by sample, with some of ``FACTS``, and ``experiment`` (see
        ``experiment_of``) where the bundle is at hand.
    slides
        Slide id of samples whose bundle tells it (see ``slide_of``).
    fitted_on
        Rows of ``encoder``, ``sample`` and perhaps ``evidence``: what an encoder was fitted on. A
        held-out sample (of any split but train) among them is a finding.
    """
    facts = {sample: _with_real_path(fact) for sample, fact in (facts or {}).items()}
    slides, sizes = slides or {}, split_sizes(rows)
    leaks = []
    for pair in itertools.combinations(rows, 2):
        earlier, later = sorted(pair, key=lambda row: split_order(row["split"]))
        if earlier["split"] != later["split"]:
            words = later.get("shared_donors") or ""
            for finding, detail in _compare(earlier, later, facts, slides):
                leaks.append(make_leak(finding, detail, later, sizes, earlier, words=words))
    for fitted in fitted_on:
        for row in rows:
            if row["sample"] == fitted["sample"] and row["split"] != "train":
                # The words about donors don't answer for an encoder.
                leak = make_leak("encoder_fitted_on", fitted.get("evidence", ""), row, sizes)
                leaks.append({**leak, "encoder": fitted["encoder"]})
    return sort_leaks(leaks)


def _with_real_path(fact: Mapping) -> Mapping:
    path = fact.get("bundle")
    return {**fact, "bundle": os.path.realpath(path)} if path else fact


def make_leak(
    finding: str, detail: str, later: Mapping, sizes: Mapping, earlier=None, words: str = ""
) -> dict:
    """A row of ``LEAKAGE``: a finding that touches all ``spots`` of the later split's row.

    ``sizes`` are the spots of each split; ``words`` those in which somebody owns up to it.
    """
    spots, total = later["spots"], sizes[later["split"]]
    hard = finding in HARD
    return {
        "finding": finding,
        "level": ("acknowledged" if words else "error") if hard else "warning",
        "donor": later["donor"],
        "sample": later["sample"],
        "split": later["split"],
        "other_sample": earlier["sample"] if earlier else "",
        "other_split": earlier["split"] if earlier else "",
        "encoder": "",
        "spots": spots,
        "share_of_split": f"{spots / total:.4f}" if spots not in ("", None) and total else "",
        "acknowledged": words if hard else "",
        "detail": detail,
    }


def split_order(name: str) -> tuple[int, str]:
    """Key that sorts splits: train, val, test, then others by name."""
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def split_sizes(rows: Iterable[Mapping]) -> dict[str, int | None]:
    """The spots of each split; None where those of a sample aren't counted."""
    sizes: dict[str, int | None] = {}
    for row in rows:
        before, spots = sizes.get(row["split"], 0), row["spots"]
        sizes[row["split"]] = None if before is None or spots in ("", None) else before + spots
    return sizes


def sort_leaks(leaks: Iterable[Mapping]) -> list[dict]:
    """Hard findings first, then the latest split: test against val, test against train, val ..."""

    def key(leak):
        place, earlier = split_order(leak["split"]), split_order(leak["other_split"] or "train")
        return (
            leak["finding"] in SOFT,
            -place[0],
            place[1],
            -earlier[0],
            leak["donor"],
            FINDINGS.index(leak["finding"]),
            leak["sample"],
            leak["other_sample"],
            leak["encoder"],
        )

    return sorted(map(dict, leaks), key=key)


def slide_of(row: Mapping, experiment: Mapping | None = None) -> str:
    """The id of a sample's slide, or "" where nothing tells it.

    The bundle's ``experiment.xenium`` states it (slide ids are numbers; other words stand in
    repackaged and simulated bundles and say nothing), or the instrument's name for its output
    folder, in the row of the sample table.
    """
    stated = str((experiment or {}).get("slide_id") or "")
    if re.fullmatch(r"\d{4,}", stated):
        return stated
    match = _SLIDE.match(row.get("bundle_name") or "")
    return match[1] if match else ""


def experiment_of(experiment: Mapping | None) -> str:
    """The run and region of a bundle with the checksum of its experiment.xenium, or "".

    The whole file counts: repackaged bundles may share the names of run and region.
    """
    run, region = ((experiment or {}).get(key) for key in ("run_name", "region_name"))
    return f"run {run}, region {region}, {sha256_json(experiment)[:12]}" if run and region else ""


def donor_group(samples: Iterable[Mapping]) -> dict[str, str]:
    """Who must stay together in a donor split: for each sample the name of its group.

    Samples of one donor are a group. Where no source names the donor (``donor_known`` is False),
    it may be that of any other sample of the same title, so they join one group.
    """
    samples = list(samples)
    group = {row["sample"]: row["donor"] for row in samples}
    titles: dict[str, list[Mapping]] = {}
    for row in samples:
        if row.get("title"):
            titles.setdefault(row["title"], []).append(row)
    for rows in titles.values():
        if any(is_placeholder(row) for row in rows):
            joined = {group[row["sample"]] for row in rows}
            name = min(joined)
            group = {key: name if value in joined else value for key, value in group.items()}
    return group


def is_placeholder(row: Mapping) -> bool:
    """Whether a sample's donor is one that no source names."""
    return str(row.get("donor_known")).lower() == "false"


def refuse_leaks(leaks: Iterable[Mapping], place: str, source, remedy: str = "") -> None:
    """The gate: hard findings that nobody owns up to. ``place`` is where the split is declared."""
    errors = [leak for leak in leaks if leak["level"] == "error"]
    if errors:
        fault = f"{'; '.join(describe_leaks(errors))} in more than one split"
        remedy = remedy or (
            "move the samples so that each donor is in one split, or own up to it: write "
            f'`shared_donors: "<reason>"` under {place}'
        )
        raise InputError(source, place, fault, remedy)


def describe_leaks(leaks: Iterable[Mapping]) -> list[str]:
    """Say for each donor in two splits where it stands: ``donor A (S1 in train, S2 in test)``.

    Of the hard findings only; two names for one bundle are told as ``bundle of A, B``.
    """
    places: dict[str, set] = {}
    for leak in leaks:
        if leak["finding"] not in HARD:
            continue
        subject = {
            "encoder_fitted_on": f"encoder {leak['encoder']}, fitted on held-out samples,",
            "same_bundle": "one bundle",
            "near_identical_sample": "one tissue under two names",
        }.get(leak["finding"], f"donor {leak['donor']}")
        touched = places.setdefault(subject, set())
        touched.add((leak["split"], leak["sample"]))
        if leak["other_sample"]:
            touched.add((leak["other_split"], leak["other_sample"]))
    sentences = []
    for subject, touched in places.items():
        ordered = sorted(touched, key=lambda place: (split_order(place[0]), place[1]))
        sentences.append(f"{subject} ({', '.join(f'{s} in {split}' for split, s in ordered)})")
    return sentences


def summarise_leaks(
    dataset: str, rows: Sequence[Mapping], leaks: Iterable[Mapping], spots_are: str
) -> list[dict]:
    """How much of each split each finding touches: one row of ``SUMMARY`` per finding and splits.

    ``spots_are`` says what was counted, e.g. ``pooled``.
    """
    sizes = split_sizes(rows)
    keys = ("finding", "level", "split", "other_split", "encoder")
    groups: dict[tuple, list[Mapping]] = {}
    for leak in leaks:
        groups.setdefault(tuple(leak[key] for key in keys), []).append(leak)
    summary = []
    for values, group in groups.items():
        finding, _, split, *_ = values
        of_split = {row["sample"]: row["spots"] for row in rows if row["split"] == split}
        touched = {leak["sample"] for leak in group}
        total = sizes[split]
        # Findings of patches count patches; those of samples the spots of the samples, once each.
        spots = None
        if finding == "near_identical_patches":
            spots = sum(leak["spots"] for leak in group)
        elif all(counted := [of_split[name] for name in touched]):
            spots = sum(counted)
        donors, words = (
            sorted({leak[key] for leak in group if leak[key]}) for key in ("donor", "acknowledged")
        )
        summary.append(
            {
                "dataset": dataset,
                **dict(zip(keys, values, strict=True)),
                "donors": len(donors),
                "donor_names": ", ".join(donors),
                "samples": len(touched),
                "samples_of_split": len(of_split),
                "share_of_samples": f"{len(touched) / len(of_split):.4f}",
                "spots": "" if spots is None else spots,
                "spots_of_split": "" if total is None else total,
                "share_of_spots": "" if spots is None or not total else f"{spots / total:.4f}",
                "spots_are": spots_are if spots is not None else "not counted for every sample",
                "acknowledged": "; ".join(words),
            }
        )
    return summary


def summary_text(summary: Mapping) -> str:
    """One row of ``summarise_leaks`` as a sentence."""
    share = ""
    if summary["share_of_spots"]:
        share = f" ({float(summary['share_of_spots']):.0%} of its spots, {summary['spots_are']})"
    what = {
        "same_sample": "also stand in",
        "same_bundle": "share a bundle with",
        "same_donor": "share a donor with",
        "near_identical_sample": "show the tissue of",
        "same_title": "have the title of samples, of donors not all known, in",
        "same_slide": "lie on a slide with samples of",
        "near_identical_patches": "have patches that nearly equal patches of",
        "encoder_fitted_on": f"were among what encoder {summary['encoder']} was fitted on",
    }[summary["finding"]]
    end = f" {summary['other_split']}" if summary["other_split"] else ""
    return (
        f"{summary['samples']} of {summary['samples_of_split']} {summary['split']} sample(s)"
        f"{share} {what}{end}"
    )


def read_leaks(path) -> list[dict]:
    """Read leakage.tsv, its words checked."""
    rows = LEAKAGE.read(path)
    for number, row in enumerate(rows, start=2):
        one_of(row["finding"], FINDINGS, path, f"line {number}, finding")
        one_of(row["level"], LEVELS, path, f"line {number}, level")
    return rows


def _compare(earlier: Mapping, later: Mapping, facts: Mapping, slides: Mapping):
    """Yield what two rows of different splits share, as (finding, detail)."""
    one, other = facts.get(earlier["sample"], {}), facts.get(later["sample"], {})

    def same(column: str) -> str:
        value = one.get(column) or ""
        return value if value == (other.get(column) or "") and value != "none" else ""

    if earlier["sample"] == later["sample"]:
        yield "same_sample", "the same patches, spot by spot"
        return
    if bundle := next(filter(None, map(same, BUNDLE_MARKS)), ""):
        yield "same_bundle", bundle
    elif earlier["donor"] == later["donor"]:
        yield "same_donor", ""
    elif (title := same("title")) and (is_placeholder(earlier) or is_placeholder(later)):
        labels = [fact.get("published_patient") or "none" for fact in (other, one)]
        yield (
            "same_title",
            f"{title} (published patient: {labels[0]} of {later['sample']}, "
            f"{labels[1]} of {earlier['sample']})",
        )
    slide = slides.get(earlier["sample"])
    if slide and slide == slides.get(later["sample"]):
        yield "same_slide", f"slide {slide}"
    elif image := same("he_image"):
        yield "same_slide", f"H&E {image}"

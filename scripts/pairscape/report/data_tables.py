"""The tables of the report that show no score: samples, checks, alignments, splits, spots, runs."""

from collections.abc import Mapping, Sequence

from pairscape.report import layout


def nice(value) -> str:
    """A number with no more digits than a reader wants; None and "" as they are not known."""
    if value is None or value == "":
        return layout.NOT_RUN
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def samples(rows: Sequence[Mapping]) -> dict:
    """What is known of the samples, the name first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    filled = [name for name in names if any(row.get(name) for row in rows)]
    filled.sort(key=lambda name: name != "sample")
    header = [name.replace("_", " ").capitalize() for name in filled]
    return layout.section(
        "", header, [[nice(row.get(name, "")) for name in filled] for row in rows]
    )


def checks(reports: Sequence[Mapping]) -> dict:
    """What check_bundle found."""
    header = ["Sample", "Verdict", "Software", "Panel genes", "Gene transcripts", "Cells"]
    rows = []
    for report in reports:
        facts = report["facts"]
        findings = [
            f"{one['level']}: {one['field']}: found {one['found']}"
            + (f", expected {one['expected']}" if one["expected"] else "")
            + f"; {one['remedy']}"
            for one in report["findings"]
        ]
        names = ("software_version", "panel_genes", "gene_transcripts", "cells")
        told = [nice(facts.get(name, "")) for name in names]
        size = nice((facts.get("alignment") or {}).get("um_per_px", ""))
        said = "\n".join(findings) or "none"
        rows.append([report["sample"], report["verdict"], *told, size, said])
    return layout.section("", [*header, "H&E µm/px", "Findings"], rows)


def alignments(reports: Sequence[Mapping]) -> dict:
    """What check_alignment found."""
    header = ["Sample", "Verdict", "Given as", "H&E µm/px", "Turned (degrees)", "Mirrored", "Score"]
    rows = []
    for report in reports:
        evidence, turned = report["evidence"], report.get("rotation_degrees")
        scores = [
            f"{one['score']:.2f}" if "score" in one else layout.MINUS_TO
            for one in (evidence, evidence.get("rival") or {})
        ]
        rows.append(
            [
                *(report["sample"], report["verdict"], report.get("how", "")),
                nice(report.get("um_per_px", "")),
                "" if turned is None else f"{turned:.1f}",
                *("yes" if report.get("mirrored") else "no", *scores),
                "\n".join(report["warnings"]) or "none",
            ]
        )
    return layout.section("", [*header, "Best rival's score", "Warnings"], rows)


def splits(parts: Mapping[str, Mapping]) -> dict:
    """How large the splits of a dataset are."""
    names = ("samples", "donors", "spots")
    rows = [[split, *(nice(part[name]) for name in names)] for split, part in parts.items()]
    return layout.section("", ["Split", "Samples", "Donors", "Spots"], rows)


def audits(reports: Sequence[Mapping]) -> dict:
    """Where the rows of the samples' transcripts went."""
    reasons = list(dict.fromkeys(reason for report in reports for reason in report["dropped"]))
    header = ["Sample", "Spots", "Rows read", "Pooled"]
    header += [f"Dropped: {reason.replace('_', ' ')}" for reason in reasons]
    rows = []
    for report in reports:
        read, pooled = report["rows_read"], report["pooled"]
        medians = [
            nice(report.get(f"{what}_per_spot", {}).get("median", ""))
            for what in ("transcripts", "genes")
        ]
        share = f" ({pooled / read:.1%})" if read else " "
        counts = [nice(report["dropped"].get(reason, 0)) for reason in reasons]
        name = nice(report.get("spots_name", ""))
        kept = [nice(report["spots"]), *medians]
        rows.append([report["sample"], name, nice(read), f"{pooled:,}{share}", *counts, *kept])
    return layout.section("", [*header, "Spots kept", "Median transcripts", "Median genes"], rows)


def runs(options: Sequence[Mapping]) -> dict:
    """What was trained, and on how many pairs."""
    header = ["Experiment", "Dataset", "Image encoder", "Gene encoder", "Seed", "Pairs"]
    keys = ("experiment", "dataset", "image_encoder", "gene_encoder")
    rows = [
        [
            *(run[key] for key in keys),
            str(run["seed"]),
            ", ".join(f"{split} {nice(count)}" for split, count in run.get("pairs", {}).items()),
            nice(run.get("selected_step", "")),
            run["sha256"][:16],
        ]
        for run in options
    ]
    return layout.section("", [*header, "Step selected", "options.json, SHA-256"], rows)

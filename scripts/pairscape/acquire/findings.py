"""Findings about a bundle: how they are told and counted."""

LEVELS = ("error", "warning", "note")


def describe(finding: dict) -> str:
    """A finding as one line, without its level."""
    expected = f", expected {finding['expected']}" if finding["expected"] else ""
    place, found = f"{finding['file']}: {finding['field']}", finding["found"]
    return f"{place}: found {found}{expected}; {finding['remedy']}"


def make_finding(level, file, field, found, remedy, expected="") -> dict:
    values = {"file": file, "field": field, "found": found, "expected": expected, "remedy": remedy}
    return {"level": level} | {name: " ".join(str(v).split()) for name, v in values.items()}


def report(sample: dict, findings: list[dict], facts: dict) -> dict:
    findings.sort(key=lambda finding: LEVELS.index(finding["level"]))
    worst = findings[0]["level"] if findings else "note"
    return {
        "sample": sample.get("sample", ""),
        "verdict": "ok" if worst == "note" else worst,
        "findings": findings,
        "facts": facts,
    }


def few_words(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

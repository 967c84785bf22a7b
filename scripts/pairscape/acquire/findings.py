"""Findings about a bundle: how they are told and counted."""

from pairscape.core.errors import InputError

LEVELS = ("error", "warning", "note")


def describe(finding: dict) -> str:
    """A finding as one line, without its level."""
    expected = f", expected {finding['expected']}" if finding["expected"] else ""
    place, found = f"{finding['file']}: {finding['field']}", finding["found"]
    return f"{place}: found {found}{expected}; {finding['remedy']}"


class Findings(list):
    """The findings about a bundle, each a dictionary."""

    def add(self, level, file, field, found, remedy, expected="") -> None:
        """Add a finding, all its texts on one line."""
        texts = {
            "file": file,
            "field": field,
            "found": found,
            "expected": expected,
            "remedy": remedy,
        }
        self.append({"level": level} | {n: " ".join(str(v).split()) for n, v in texts.items()})

    def add_error(self, error: InputError, level: str = "error") -> None:
        """Add what was refused."""
        self.add(level, error.file, error.field, error.found, error.remedy)


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

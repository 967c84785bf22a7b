"""The partitions that a profile names, held against those that Slurm has."""

import subprocess
from collections.abc import Mapping, Sequence

PATIENCE_S = 10  # with a controller that doesn't answer


def ask() -> str | None:
    """Lines of partition, state and limit by ``sinfo``; None where it gives none."""
    command = ["sinfo", "--noheader", "--format=%R %a %l"]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def lacks(rules: Mapping[str, Sequence], said: str) -> list[str]:
    """Partitions that Slurm doesn't have up, or whose limit is below what a rule asks for.

    ``rules`` have each a partition, and their minutes where the profile or the rule has a number;
    ``said`` are lines of partition, state and limit, as ``sinfo`` says them.
    """
    told = [line.split()[:3] for line in said.splitlines() if len(line.split()) >= 3]
    limits = {name: _minutes(limit) for name, state, limit in told if state == "up"}
    has = ", ".join(sorted(limits)) or "none"
    absent = sorted({name for name, _ in rules.values()} - limits.keys())
    lines = [
        f"partition {name}: Slurm has {has}; edit profiles/slurm/config.yaml" for name in absent
    ]
    lines += [
        f"partition {name}: its limit is {limits[name]:.0f} minutes, and {rule} asks for {minutes}; "
        f"set runtime of {rule} in the profile"
        for rule, (name, minutes) in sorted(rules.items())
        if minutes and minutes > limits.get(name, minutes)
    ]
    return lines


def _minutes(limit: str) -> float:
    """A time limit as Slurm writes it: ``infinite``, or ``[days-][hours:]minutes:seconds``."""
    if not limit[0].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60

"""Everything that a configuration still lacks, a line each: what preflight prints. It asks nobody."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire import probes, sources, weight_downloads
from pairscape.core.errors import InputError
from pairscape.encoders import specs
from pairscape.plan import costs, missing
from pairscape.plan import sources as plan_sources
from pairscape.plan.plan import Plan
from pairscape.slides import cohorts

BY_HAND = "path"  # the source of weights that no program fetches


def all_lacks(plan: Plan) -> list[str]:
    """What samples, addresses, encoders, tokens, cohorts and disk lack."""
    return [
        *of_samples(plan),
        *of_addresses(plan),
        *of_encoders(plan),
        *of_secrets(plan),
        *of_cohorts(plan),
        *of_disk(plan),
    ]


def of_samples(plan: Plan) -> list[str]:
    """What can't be had of samples, and those that were refused, with what to do."""
    lines = []
    for name in plan_sources.asked_samples(plan):
        row, config = plan.samples[name], plan.config
        lines += [
            f"sample {name}: it was refused: {why}; mend that, or delete {path} to try it again"
            for path, why in missing.refused_by(config, row).items()
        ]
        lines += [f"sample {name}: {words}" for words in missing.absent(config, row)]
    return lines


def of_addresses(plan: Plan) -> list[str]:
    """What check_sources couldn't get when it last asked, or that it never did."""
    files = [one for one in plan_sources.files(plan) if not one["place"]]
    asked = {(one["kind"], one["name"], one["part"]) for one in files if _has_address(one)}
    path = Path(plan.results, plan_sources.CHECKED)
    if not asked:
        return []
    if not path.is_file():
        return [f"addresses: {len(asked)} that were never asked from here; run check_sources"]
    rows = probes.SOURCES.read(path)
    known = {(row["kind"], row["name"], row["part"]): row for row in rows}
    lines = [
        f"{' '.join(one[:2])}, {one[2]}: {row['verdict']}: {row['found']} ({row['url']})"
        for one in sorted(asked)
        if (row := known.get(one)) and row["verdict"] not in probes.CAN_BE_HAD
    ]
    if others := len(asked - known.keys()):
        lines.append(f"addresses: {others} that were never asked from here; run check_sources")
    return lines


def _has_address(file: Mapping) -> bool:
    if "encoder" in file:
        return file["encoder"]["weights"]["source"] != BY_HAND
    return bool(file["url"])


def of_encoders(plan: Plan) -> list[str]:
    """Weights that aren't there, with licence and gate, and encoders that can't be built."""
    lines = []
    used = {pair for one in plan.experiments.values() for pair in one.pairs}
    for kind, names in zip(specs.KINDS, zip(*sorted(used), strict=True), strict=False):
        for name in sorted(set(names)):
            try:
                specs.require_built(plan.encoders[kind][name], f"{plan.config['encoders']}/{kind}")
            except InputError as error:
                lines.append(f"{kind} encoder {name}: {error.found}; {error.remedy}")
    for file in _absent_weights(plan):
        spec, part = file["encoder"], file["part"]
        place = weight_downloads.place_of(spec, part, file["name"])
        how = "fetch_all_weights brings it"
        if place["source"] == BY_HAND:
            how = f"put it there by hand, from {place['location'] or 'its authors'}"
        elif place["gated"]:
            how = f"gated: ask at {weight_downloads.page_of(place)} for access"
        where = f"{plan.weights}/{file['kind']}/{file['name']}/{part}"
        lines.append(
            f"{file['kind']} encoder {file['name']}: no {where}; {how} (licence: {place['licence']})"
        )
    return lines


def _absent_weights(plan: Plan) -> list[dict]:
    return [one for one in plan_sources.files(plan) if "encoder" in one and not one["place"]]


def of_secrets(plan: Plan) -> list[str]:
    """Tokens that gated weights, or addresses with ``${NAME}``, ask for and the environment lacks."""
    import huggingface_hub

    weights = {one["name"]: one["encoder"]["weights"] for one in _absent_weights(plan)}
    gated = [name for name, w in weights.items() if w["gated"] and w["source"] == "huggingface"]
    lines = []
    if gated and not huggingface_hub.get_token():
        lines.append(f"HF_TOKEN: nothing; {', '.join(sorted(gated))} are gated: set it, or log in")
    wanted: dict[str, list[str]] = {}
    for name in plan_sources.asked_samples(plan):
        urls = " ".join(plan.samples[name][f"{part}_url"] for part in sources.PARTS)
        for secret in sorted(set(re.findall(r"\$\{(\w+)\}", urls))):
            wanted.setdefault(secret, []).append(name)
    lines += [
        f"{secret}: nothing; the addresses of {', '.join(names)} ask for it: set it"
        for secret, names in wanted.items()
        if not os.environ.get(secret)
    ]
    return lines


def of_cohorts(plan: Plan) -> list[str]:
    """Cohort tables without rows, labels or files; a simulated cohort lacks nothing."""
    users: dict[str, dict[str, None]] = {}
    for name, entry in plan.mutation.items():
        for cohort in (entry.cohort, *entry.external):
            users.setdefault(cohort, {})[name] = None
    lines = []
    for name, entries in users.items():
        cohort, used_by = plan.cohorts[name], f"mutation {', '.join(entries)}"
        if cohort.simulation:
            continue
        if not cohort.rows:
            lines.append(
                f"cohort {name}: no row in {cohort.table}, for {used_by}; fill it (docs/slides.md)"
            )
            continue
        absent = [row for row in cohort.rows if not cohorts.slide_file(plan.slides, row).exists()]
        if absent:
            some = cohorts.slide_file(plan.slides, absent[0])
            lines.append(f"cohort {name}: {len(absent)} of {len(cohort.rows)} files, as {some}")
    return lines


def to_fetch_gb(plan: Plan) -> tuple[float, float]:
    """GB of bundles and H&E, and of weights, that are still to be fetched, by the tables."""
    files = plan_sources.files(plan)
    absent = {one["name"] for one in files if one["kind"] == "sample" and not one["place"]}
    sizes = [costs.raw_gb(plan, name) for name in absent]
    # A zip lies beside what is unpacked of it until that is whole.
    bundles = sum(sizes) + max(sizes, default=0)
    parameters = {
        (one["kind"], one["name"]): one["encoder"]["parameters"] or 0
        for one in files
        if "encoder" in one and not one["place"]
    }
    return bundles, 4 * sum(parameters.values()) / 1e9


def of_disk(plan: Plan) -> list[str]:
    """Disks with less free than what is still to be fetched to them; results come on top."""
    needed: dict[int, list] = {}
    for folder, gigabytes in zip((plan.bundles, plan.weights), to_fetch_gb(plan), strict=True):
        place = _nearest(folder)
        needed.setdefault(os.stat(place).st_dev, [place, 0.0])[1] += gigabytes
    return [
        f"disk of {place}: {free:.0f} GB free, {gigabytes:.0f} GB still to be fetched; "
        "free some, or set bundles and weights to another disk"
        for place, gigabytes in needed.values()
        if (free := shutil.disk_usage(place).free / 1e9) < gigabytes
    ]


def _nearest(folder) -> Path:
    """The folder, or the nearest one above it that there is."""
    path = Path(folder).absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())

"""What a configuration's plan will take: jobs, CPU and GPU hours, disk, the most expensive jobs.

The jobs are those of `snakemake -n`; what a job takes is estimated from rates.tsv, where each rate says
whether it was measured and where, or assumed. Nothing here was measured on a GPU.

    python benchmarks/plan_costs.py [--configfile FILE] [--write docs/cluster.md]

`make plan` prints it in a screen; --write puts a table by rule into a Markdown file.
"""

import argparse
import functools
import re
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.core.tsv import read_tsv  # noqa: E402
from pairscape.plan import costs  # noqa: E402
from pairscape.plan.plan import Plan  # noqa: E402
from pairscape.plan.reading import read_plan  # noqa: E402

BEGIN, END = "<!-- plan_costs -->", "<!-- end of plan_costs -->"
GROUP_NAMES = {"sample": "of a sample", "dataset": "of a dataset", "report": "the report"}
TOP = 10
LOGIN_JOBS = 4  # `--cores 4` of the call in docs/cluster.md that fetches on a login node


@dataclass(frozen=True)
class Job:
    """A job of the plan: what it asks for, and by the rates what it takes.

    ``cpu`` and ``gpu`` are hours (one on a GPU keeps a reader or two busy beside it), ``kept`` and
    ``passing`` the gigabytes that stay and that are there only while it runs.
    """

    rule: str
    wildcards: dict
    asked: dict
    cpu: float
    gpu: float
    kept: float
    passing: float


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default="config/config.yaml")
    parser.add_argument("--write", help="Markdown file whose table is to be replaced")
    args = parser.parse_args(argv)
    said = dry_run(args.configfile)
    plan = read_configuration(args.configfile)
    jobs = [cost(plan, *job) for job in planned(said)]
    if args.write:
        path = Path(args.write)
        before, _, rest = path.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        path.write_text(f"{before}{BEGIN}\n{to_markdown(jobs, submitted(said))}{END}{after}")
    else:
        print(to_screen(plan, jobs, submitted(said)))


def dry_run(configfile: str) -> str:
    """What `snakemake -n` prints of all jobs, through the Slurm profile."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "-n", "--forceall", "--nocolor"),
            *("--profile", "profiles/slurm", "--configfile", configfile),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout + done.stderr


def read_configuration(configfile: str) -> Plan:
    """The plan of a configuration, as the workflow reads it."""
    import yaml

    return read_plan(yaml.safe_load((ROOT / configfile).read_text()), configfile)


def planned(said: str) -> list[tuple[str, dict, dict]]:
    """Each job of a dry run: its rule, wildcards, and what it asks for."""
    jobs = []
    for line in said.splitlines():
        if found := re.match(r" *(?:local)?rule (\w+):$", line):
            jobs.append((found[1], {}, {}))
        elif jobs and (found := re.match(r" *(wildcards|resources): (.*)$", line)):
            pairs = dict(pair.split("=", 1) for pair in found[2].split(", ") if "=" in pair)
            jobs[-1][1 if found[1] == "wildcards" else 2].update(pairs)
    return [job for job in jobs if job[0] != "all"]


def submitted(said: str) -> dict[str, Counter]:
    """The jobs that Slurm gets, counted by name (of the group, else the rule) and by partition."""
    counted, name, in_group = {"name": Counter(), "partition": Counter()}, None, False
    for line in said.splitlines():
        if found := re.search(r"\bGroup job (\w+)", line):
            name, in_group = found[1], True
        elif found := re.match(r"( *)(?:local)?rule (\w+):$", line):
            in_group = in_group and bool(found[1])
            if not in_group:
                name = None if found[2] == "all" else found[2]
        elif name and (found := re.search(r"\bslurm_partition=(\w+)", line)):
            counted["name"][name] += 1
            counted["partition"][found[1]] += 1
            name = None  # the other steps of a group go with its first
    return counted


def running_order() -> list[str]:
    """The rules as they stand in the stages' files."""
    stages = re.findall(r'^include: "(.*)"$', (ROOT / "Snakefile").read_text(), re.MULTILINE)
    return [
        name
        for stage in stages
        for name in re.findall(
            r"^(?:rule|use rule \w+ as) (\w+)", (ROOT / stage).read_text(), re.MULTILINE
        )
    ]


@functools.cache
def rates() -> dict[str, float]:
    """The rates by name."""
    rows = read_tsv(Path(__file__).with_name("rates.tsv"), ["rate", "value", "kind", "source"])
    return {row["rate"]: float(row["value"]) for row in rows}


def cost(plan: Plan, rule: str, wildcards: dict, asked: dict) -> Job:
    """A job with its costs by the rates."""
    rate, w = rates(), wildcards
    dataset, sample = plan.datasets.get(w.get("dataset")), w.get("sample")
    experiment = plan.experiments.get(w.get("experiment"))
    names = [sample] if sample else dataset.samples if dataset else []
    preset = w.get("spots") or (dataset.spots if dataset else None)
    spots = 1e3 * sum(costs.thousand_spots(plan, name, preset) for name in names)
    image_s = rate.get(w.get("image", "").removesuffix("_published"), rate["other_image"])
    gene_s = rate.get(w.get("gene", ""), rate["other_gene"])
    pairs = (spots * rate["test_share"] / 20_000) ** 2
    runs = len(experiment.pairs) * len(experiment.seeds) if experiment else 0
    cpu, gpu, kept, passing = rate["job"], 0.0, 0.0, 0.0
    if rule.startswith("fetch_bundle"):
        raw = costs.raw_gb(plan, sample)
        # Zip and H&E as they are served lie beside what is made of them.
        cpu, kept, passing = cpu + raw * 1e3 / rate["fetch"], raw * rate["unpacked"], raw
    elif rule in ("check_bundle", "check_alignment", "show_spots"):
        cpu += rate["check"]
    elif rule == "pool_spots":
        cpu += rate["check"] + rate["transcripts"] / rate["pool"]
    elif rule in ("export_pairs", "import_pairs"):
        cpu, kept = cpu + spots / rate["patches"], spots * rate["patch"] / 1e6
    elif rule == "describe_dataset":
        cpu += spots / rate["patches"]
    elif rule == "embed_images":
        gpu, kept = spots * image_s / rate["gpu"], spots * 1024 * 4 / 1e9
    elif rule == "embed_genes":
        gpu, kept = spots * gene_s / rate["gpu"], spots * 768 * 4 / 1e9
    elif rule == "fit_gene_encoder":
        gpu = min(400 * spots, rate["drvi_epochs"]) * rate["drvi_fit"] / 1e3 / rate["drvi_gpu"]
    elif rule == "pretrain":
        gpu = training_seconds(experiment.training, spots, image_s, rate)
        kept = rate["run_disk"] / 1e3 + spots * 128 * 4 * 1.2 / 1e9
    elif rule in ("score_retrieval", "score_hits"):
        cpu += runs * 2 * rate[rule.removeprefix("score_")] * pairs
    elif rule == "score_batch_effect":
        cpu += rate["batch_effect"] * spots / 1e5
    elif rule == "score_expression":
        cpu += (runs + 6) * rate["expression"] * spots / 20_000
    return Job(rule, w, asked, (cpu + gpu) / 3600, gpu / 3600, kept, passing)


def training_seconds(training, spots: float, image_s: float, rate: dict) -> float:
    """Seconds of a GPU that a pretraining takes to its last step."""
    if training["image_tuning"] == "frozen":
        return training["max_steps"] * rate["frozen_step"]
    passes = training["max_steps"] * training["batch_size"] * rate["training"] + spots
    return passes * image_s / rate["gpu"]


def by_rule(jobs: list[Job]) -> dict[str, list[Job]]:
    """The jobs of each rule, in running order."""
    found = defaultdict(list)
    for job in jobs:
        found[job.rule].append(job)
    return {rule: found[rule] for rule in running_order() if rule in found}


def total(jobs: list[Job], what: str) -> float:
    return sum(getattr(job, what) for job in jobs)


def to_screen(plan: Plan, jobs: list[Job], slurm: dict[str, Counter]) -> str:
    """All of it for a terminal."""
    number = Counter(job.rule for job in jobs)
    partitions = [f"{count} in {name}" for name, count in slurm["partition"].most_common()]
    passing = sorted((job.passing for job in jobs), reverse=True)
    kept = {rule: total(of, "kept") for rule, of in by_rule(jobs).items()}
    most = sorted(kept, key=kept.get, reverse=True)[:3]
    samples = {job.wildcards["sample"] for job in jobs if job.rule.startswith("fetch_bundle")}
    known = sum(
        bool(plan.samples[name][key])
        for name in samples
        for key in ("bundle_bytes", "he_image_bytes")
    )
    fetching = f"{LOGIN_JOBS} at a time (--cores {LOGIN_JOBS}), {sum(passing):,.0f} all at once"
    rows = {
        "jobs": f"{len(jobs)}; for Slurm {slurm['partition'].total()}: {', '.join(partitions)}",
        "by rule": ", ".join(f"{rule} {count}" for rule, count in number.most_common()),
        "hours": f"{total(jobs, 'cpu'):,.0f} CPU, {total(jobs, 'gpu'):,.0f} GPU",
        "GB kept": f"{total(jobs, 'kept'):,.0f}: "
        + ", ".join(f"{rule} {kept[rule]:,.0f}" for rule in most),
        "at most": f"{sum(passing[:LOGIN_JOBS]):,.0f} GB more while bundles come {fetching}",
        "known": f"{known} of {2 * len(samples)} sizes; 10 GB are taken for a bundle, 2 for an H&E",
    }
    lines = [f"{plan.source}: an estimate (benchmarks/rates.tsv)", ""]
    for name, words in rows.items():
        lines += textwrap.wrap(words, 100, initial_indent=f"{name:9}", subsequent_indent=" " * 9)
    lines += ["", f"the most expensive {TOP}   GPU h   CPU h"]
    for job in sorted(jobs, key=lambda job: (job.gpu, job.cpu), reverse=True)[:TOP]:
        words = " ".join([job.rule, *job.wildcards.values()])
        lines.append(f"{job.gpu:29.1f} {job.cpu:7.1f}  {words}")
    return "\n".join(lines)


def to_markdown(jobs: list[Job], slurm: dict[str, Counter]) -> str:
    """The table by rule, with its sum and the number of jobs that Slurm sees."""
    lines = [
        "| rule | jobs | asked for, at most | CPU h | GPU h | GB kept | GB meanwhile |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    columns = ("cpu", "gpu", "kept", "passing")
    for rule, of in by_rule(jobs).items():
        memory, runtime = (
            max(int(job.asked.get(key) or 0) for job in of) for key in ("mem_mb", "runtime")
        )
        asked = f"{memory / 1000:.0f} GB, {runtime / 60:.1f} h"
        gpus = of[0].asked.get("gpu")
        asked += f", {gpus} GPU" if gpus else ""
        cells = " | ".join(f"{total(of, key):,.1f}" for key in columns)
        lines.append(f"| `{rule}` | {len(of)} | {asked} | {cells} |".replace(" 0.0 |", " – |"))
    cells = " | ".join(f"{total(jobs, key):,.0f}" for key in columns)
    lines.append(f"| **all** | {len(jobs)} | | {cells} |")
    grouped = ", ".join(f"{slurm['name'][key]} {words}" for key, words in GROUP_NAMES.items())
    lines += ["", f"Slurm gets {slurm['name'].total()} jobs: among them {grouped}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

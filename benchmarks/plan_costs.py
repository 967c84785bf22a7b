"""What a configuration's plan will take: jobs, CPU and GPU hours, storage, by rule.

The jobs are those of `snakemake -n`; what a job takes is estimated from rates.tsv, where each rate says
whether it was measured and where, or assumed. Nothing here was measured on a GPU.

    python benchmarks/plan_costs.py [--configfile FILE] [--write docs/cluster.md]
"""

import argparse
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.core.tsv import read_tsv  # noqa: E402
from pairscape.plan.reading import read_plan  # noqa: E402

BEGIN, END = "<!-- plan_costs -->", "<!-- end of plan_costs -->"
GROUP_NAMES = {"sample": "of a sample", "dataset": "of a dataset", "report": "the report"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default="config/config.yaml")
    parser.add_argument("--write", help="Markdown file whose table is to be replaced")
    args = parser.parse_args(argv)
    jobs, slurm_jobs = plan(args.configfile)
    table = to_markdown(estimate(jobs, *sizes(args.configfile)), slurm_jobs)
    if args.write:
        path = Path(args.write)
        before, _, rest = path.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        path.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
    else:
        print(table, end="")


def plan(configfile: str) -> tuple[list[dict], Counter]:
    """Each job of the dry run with what it asks for, and the jobs that Slurm gets, counted by name."""
    said = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "-n", "--forceall", "--nocolor"),
            *("--profile", "profiles/slurm", "--configfile", configfile),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if said.returncode:
        sys.exit(said.stdout[-2000:] + said.stderr[-2000:])
    text = said.stdout + said.stderr
    jobs, slurm, in_group = [], Counter(), False
    for line in text.splitlines():
        if group := re.search(r"\bGroup job (\w+)", line):
            slurm[group[1]] += 1
            in_group = True
        elif found := re.match(r"( *)(?:local)?rule (\w+):$", line):
            in_group = in_group and bool(found[1])
            jobs.append({"rule": found[2], "wildcards": {}, "group": in_group})
            if not in_group and found[2] != "all":
                slurm[found[2]] += 1
        elif jobs and (found := re.match(r" *wildcards: (.*)$", line)):
            jobs[-1]["wildcards"] = dict(pair.split("=", 1) for pair in found[1].split(", "))
        elif jobs and (found := re.match(r" *resources: (.*)$", line)):
            of = dict(pair.split("=", 1) for pair in found[1].split(", ") if "=" in pair)
            jobs[-1] |= {name: of.get(name, "") for name in ("mem_mb", "runtime", "gpu")}
    return [job for job in jobs if job["rule"] != "all"], slurm


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


def rates() -> dict[str, float]:
    """The rates by name."""
    rows = read_tsv(Path(__file__).with_name("rates.tsv"), ["rate", "value", "kind", "source"])
    return {row["rate"]: float(row["value"]) for row in rows}


def sizes(configfile: str) -> tuple[dict, dict[str, float], dict[str, float]]:
    """The configuration, and for each sample its spots and its raw gigabytes."""
    import yaml

    rate = rates()
    plan = read_plan(yaml.safe_load((ROOT / configfile).read_text()), configfile)
    config, samples = plan.config, plan.samples
    config["samples_of"] = {name: dataset.samples for name, dataset in plan.datasets.items()}
    spots = {
        name: float(row["hest_spots"] or rate["hest_spots"]) * rate["spots"]
        for name, row in samples.items()
    }
    raw = {}
    for name, row in samples.items():
        known = [int(row[key]) / 1e9 for key in ("bundle_bytes", "he_image_bytes") if row[key]]
        raw[name] = sum(known) + {0: rate["bundle"], 1: 10, 2: 0}[len(known)]
    return config, spots, raw


def estimate(jobs, config, spots_of, raw_of) -> dict[str, dict]:
    """By rule: jobs, the largest request, CPU hours, GPU hours and gigabytes."""
    rate = rates()
    found = defaultdict(lambda: {"jobs": 0, "mem": 0, "runtime": 0, "cpu": 0, "gpu": 0, "gb": 0})
    for job in jobs:
        rule, w = job["rule"], job["wildcards"]
        dataset, sample, image = w.get("dataset"), w.get("sample"), w.get("image")
        spots = (
            spots_of[sample]
            if sample
            else sum(spots_of[name] for name in config["samples_of"].get(dataset, ()))
        )
        image_s = rate.get((image or "").removesuffix("_published"), rate["other_image"])
        gene_s = rate.get(w.get("gene", ""), rate["other_gene"])
        test = spots * rate["test_share"]
        plan_of = config["experiments"].get(w.get("experiment"), {})
        runs = (
            len(plan_of["image_encoders"]) * len(plan_of["gene_encoders"]) * len(plan_of["seeds"])
            if plan_of
            else 0
        )
        cpu, gpu, gb = rate["job"], 0.0, 0.0
        if rule.startswith("fetch_bundle"):
            cpu, gb = cpu + raw_of[sample] * 1e3 / rate["fetch"], raw_of[sample]
        elif rule in ("check_bundle", "check_alignment", "show_spots"):
            cpu += rate["check"]
        elif rule == "pool_spots":
            cpu += rate["check"] + rate["transcripts"] / rate["pool"]
        elif rule in ("export_pairs", "import_pairs"):
            cpu, gb = cpu + spots / rate["patches"], spots * rate["patch"] / 1e6
        elif rule == "describe_dataset":
            cpu += spots / rate["patches"]
        elif rule == "embed_images":
            gpu, gb = spots * image_s / rate["gpu"], spots * 1024 * 4 / 1e9
        elif rule == "embed_genes":
            gpu, gb = spots * gene_s / rate["gpu"], spots * 768 * 4 / 1e9
        elif rule == "fit_gene_encoder":
            fitted = min(400 * spots, rate["drvi_epochs"])
            gpu = fitted * rate["drvi_fit"] / 1e3 / rate["drvi_gpu"]
        elif rule == "pretrain":
            training = plan_of["training"]
            steps = training["max_steps"]
            gpu = steps * rate["frozen_step"]
            if training["image_tuning"] != "frozen":
                passes = steps * training["batch_size"] * rate["training"] + spots
                gpu = passes * image_s / rate["gpu"]
            gb = rate["run_disk"] / 1e3 + spots * 128 * 4 * 1.2 / 1e9
        elif rule == "score_retrieval":
            cpu += runs * 2 * rate["retrieval"] * (test / 20_000) ** 2
        elif rule == "score_hits":
            cpu += runs * 2 * rate["hits"] * (test / 20_000) ** 2
        elif rule == "score_batch_effect":
            cpu += rate["batch_effect"] * spots / 1e5
        elif rule == "score_expression":
            cpu += (runs + 6) * rate["expression"] * spots / 20_000
        of = found[rule]
        of["jobs"] += 1
        for name, key in (("mem", "mem_mb"), ("runtime", "runtime")):
            of[name] = max(of[name], int(job.get(key) or 0))
        of["gpus"] = job.get("gpu", "")
        # A job on a GPU keeps a reader or two busy beside it.
        of["cpu"] += (cpu + gpu) / 3600
        of["gpu"] += gpu / 3600
        of["gb"] += gb
    return found


def to_markdown(found, slurm_jobs) -> str:
    """The table, with its sum and the number of jobs that Slurm sees."""
    lines = [
        "| rule | jobs | asked for, at most | CPU h | GPU h | GB kept |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    total = Counter()
    for rule in running_order():
        if rule not in found:
            continue
        of = found[rule]
        asked = f"{of['mem'] / 1000:.0f} GB, {of['runtime'] / 60:.1f} h"
        asked += f", {of['gpus']} GPU" if of.get("gpus") else ""
        lines.append(
            f"| `{rule}` | {of['jobs']} | {asked} | {of['cpu']:,.1f} | "
            f"{of['gpu']:,.1f} | {of['gb']:,.1f} |".replace(" 0.0 |", " – |")
        )
        total.update({key: of[key] for key in ("jobs", "cpu", "gpu", "gb")})
    lines.append(
        f"| **all** | {total['jobs']} | | {total['cpu']:,.0f} | {total['gpu']:,.0f} | "
        f"{total['gb']:,.0f} |"
    )
    grouped = ", ".join(f"{slurm_jobs[key]} {words}" for key, words in GROUP_NAMES.items())
    lines += ["", f"Slurm gets {slurm_jobs.total()} jobs: among them {grouped}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

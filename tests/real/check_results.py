"""What `make real` has to show: counts equal to the truth, and recall above chance on section C5.

Run after `snakemake --configfile tests/real/config.yaml`, in the repository's root. Prints one line
for each thing it checked; exits with 1 at the first that doesn't hold.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "tests/real/config.yaml"
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.spots import read_spots  # noqa: E402


def main():
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    results = ROOT / config["results"]
    checks = [
        (check_counts, results, ROOT / config["bundles"] / "her2st-xenium" / "truth"),
        (check_ileum, results),
        (check_recall, results),
        (check_refusal, config),
    ]
    for check, *arguments in checks:
        print(f"real: {check(*arguments)}")


def check_counts(results, truth) -> str:
    spots = 0
    for section in ("C2", "C3", "C4", "C5"):
        counts = read_spots(results / "samples" / section / "circle100" / "spots.zarr").to_df()
        with open(truth / f"{section}_spots.tsv", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        require([row["spot"] for row in rows] == list(counts.index), f"{section}: other spots")
        for row in rows:
            wanted = [int(row[gene]) for gene in counts.columns]
            require(wanted == list(counts.loc[row["spot"]]), f"{section}, {row['spot']}: counts")
        spots += len(rows)
    return f"the pooled counts of {spots} spots equal the truth of sections C2 to C5"


def check_ileum(results) -> str:
    folder = results / "samples" / "mouse_ileum_tiny"
    audit = json.loads((folder / "square55" / "audit.json").read_text())
    require(audit["pooled"] == 531, f"mouse ileum: {audit['pooled']} transcripts pooled, not 531")
    return "the instrument's own tiny bundle: 531 gene transcripts of quality 20 or more pooled"


def check_recall(results) -> str:
    with open(results / "scores/her2st/her2st/retrieval.tsv", newline="") as handle:
        rows = [
            row
            for row in csv.DictReader(handle, delimiter="\t")
            if row["gallery"] == "sample" and row["group"] == "all" and row["metric"] == "recall@10"
        ]
    require(len(rows) == 4, f"{len(rows)} values of Recall@10, not 2 directions x 2 seeds")
    said = []
    for row in rows:
        what = f"{row['direction']} seed {row['seed']}: Recall@10 {float(row['value']):.3f}"
        what += f", chance {float(row['chance']):.3f}, p {float(row['p_value']):.4f}"
        require(float(row["value"]) > float(row["chance"]), f"not above chance: {what}")
        require(float(row["p_value"]) < 0.01, f"not significant: {what}")
        require(row["donors_shared"], "the shared donor isn't said")
        said.append(what)
    return "section C5, never trained on: " + "; ".join(said)


def check_refusal(config) -> str:
    """Pairs from a sample without an H&E image are refused while Snakemake parses."""
    dataset = dict(
        config["datasets"]["her2st"], split={"method": "listed", "test": ["mouse_ileum_tiny"]}
    )
    config = dict(config, datasets={**config["datasets"], "ileum": dataset})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "--configfile", file.name],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "he_image" in line]
    require(done.returncode != 0 and len(said) == 1, "pairs without an H&E image aren't refused")
    return f"pairs of the ileum are refused: {said[0].replace(file.name, 'the configuration')}"


def require(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"real: {message}")


if __name__ == "__main__":
    main()

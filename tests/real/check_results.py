"""What `make real` has to show: counts equal to the truth, recall on C5 above chance and floors.

Run after `snakemake --configfile tests/real/config.yaml`, in the repository's root. Prints one line
for each thing it checked, with which of the trained pair and the closed form is better; exits with 1
at the first that doesn't hold.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "tests/real/config.yaml"
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.evaluate import intervals, ranks, retrieval  # noqa: E402
from pairscape.pretrain.run_embeddings import read_run_embeddings  # noqa: E402
from pairscape.spots.spots_zarr import read_spots  # noqa: E402

PAIR = ("tf_efficientnet_lite0", "mlp")
CLOSED_FORM = ("tf_efficientnet_lite0", "linear_alignment")
FLOORS = {
    "untrained": ("tf_efficientnet_lite0_untrained", "mlp"),
    "shuffled": ("tf_efficientnet_lite0_shuffled", "mlp"),
}
DIRECTIONS = ("i2g", "g2i")
ALPHA = 0.01


def main():
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    results = ROOT / config["results"]
    checks = [
        (check_counts, results, ROOT / config["bundles"] / "her2st-xenium" / "truth"),
        (check_ileum, results),
        (check_recall, results),
        (check_floors, results),
        (check_closed_form, results, config),
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
    rows = read_recall(results, PAIR)
    said = []
    for row in rows:
        what = f"{row['direction']} seed {row['seed']}: Recall@10 {float(row['value']):.3f}"
        what += f", chance {float(row['chance']):.3f}, p {float(row['p_value']):.4f}"
        require(float(row["value"]) > float(row["chance"]), f"not above chance: {what}")
        require(float(row["p_value"]) < ALPHA, f"not significant: {what}")
        require(row["donors_shared"], "the shared donor isn't said")
        said.append(what)
    return "section C5, never trained on: " + "; ".join(said)


def check_floors(results) -> str:
    """The pair has to beat each floor; that shuffled pairs are at chance is required, too.

    One p-value in a hundred lies below 0.01 where nothing is to be found, so it has to be below for
    both seeds of a direction. An untrained encoder still passes colour on, so that it may be above
    chance: then that is said.
    """
    said = []
    for name, encoders in FLOORS.items():
        for direction in DIRECTIONS:
            pair = read_recall(results, PAIR, direction)
            rows = read_recall(results, encoders, direction)
            what = f"{name}, {direction}: Recall@10 {over_seeds(rows)}, "
            what += "p " + " and ".join(f"{float(row['p_value']):.3f}" for row in rows)
            require(
                mean_of(pair) > mean_of(rows), f"the pair ({over_seeds(pair)}) isn't above {what}"
            )
            above = all(float(row["p_value"]) < ALPHA for row in rows)
            require(not (above and name == "shuffled"), f"significantly above chance: {what}")
            said.append(what + (" - significantly above chance" if above else ""))
    return "floors, all below the pair: " + "; ".join(said)


def check_closed_form(results, config) -> str:
    """Say which is better, the trained pair or the closed form; neither is required."""
    said = []
    for direction in DIRECTIONS:
        pair, closed = (read_recall(results, which, direction) for which in (PAIR, CLOSED_FORM))
        what = f"{direction}: pair {over_seeds(pair)}, closed form {over_seeds(closed)}, "
        difference, low, high = compare(results, config, direction)
        verdict = "neither is shown to be better"
        if low > 0 or high < 0:
            verdict = f"the {'pair' if low > 0 else 'closed form'} is better"
        said.append(what + f"difference {difference:+.3f} ({low:+.3f} to {high:+.3f}), {verdict}")
    return (
        "pair against closed form (linear_alignment), Recall@10 over seeds, difference with its paired "
        "interval over blocks of this one section: " + "; ".join(said)
    )


def compare(results, config, direction: str) -> tuple[float, float, float]:
    """Recall@10 of the pair less that of the closed form, and the interval of the difference.

    Blocks of tissue are drawn, as for the intervals of the tables; the draws give each query's
    difference, averaged over seeds.
    """
    seeds = config["experiments"]["her2st"]["seeds"]
    runs = {
        which: [
            read_run_embeddings(
                results / f"runs/her2st/her2st/{'-'.join(which)}/seed{seed}", "test"
            )
            for seed in seeds
        ]
        for which in (PAIR, CLOSED_FORM)
    }
    pair, closed = (
        np.mean([hits(run, direction) for run in runs[which]], axis=0) for which in runs
    )
    index = runs[PAIR][0]["index"]
    units = intervals.draw_blocks(
        index["sample"].to_numpy(str),
        index[["x_um", "y_um"]].to_numpy(float),
        config["retrieval"]["block_um"],
        draws=1000,
        seed=0,
    )
    drawn = intervals.select(units, np.arange(len(index)))
    low, high = intervals.of_means({"difference": pair - closed}, *drawn)["difference"]
    return float((pair - closed).mean()), low, high


def hits(run, direction: str) -> np.ndarray:
    """Whether each query finds its partner among the first ten of the section."""
    queries, gallery = (run["images"], run["genes"])[:: 1 if direction == "i2g" else -1]
    same = np.zeros(len(queries), int)
    found = ranks.rank_pairs(ranks.finite(queries), ranks.finite(gallery), same, same)["split"][0]
    return retrieval.recall_at(found.better, found.ties, 10)


def read_recall(results, encoders: tuple[str, str], direction: str | None = None) -> list[dict]:
    """The rows of Recall@10 on section C5, of both seeds, in one direction or in both."""
    with open(results / "scores/her2st/her2st/retrieval.tsv", newline="") as handle:
        rows = [
            row
            for row in csv.DictReader(handle, delimiter="\t")
            if row["gallery"] == "sample"
            and row["group"] == "all"
            and row["metric"] == "recall@10"
            and (row["image_encoder"], row["gene_encoder"]) == encoders
            and direction in (None, row["direction"])
        ]
    wanted = 2 if direction else 4
    what = f"{' with '.join(encoders)}: {len(rows)} values of Recall@10"
    require(len(rows) == wanted, f"{what}, not {wanted // 2} directions x 2 seeds")
    return rows


def mean_of(rows) -> float:
    return sum(float(row["value"]) for row in rows) / len(rows)


def over_seeds(rows) -> str:
    return " and ".join(f"{float(row['value']):.3f}" for row in rows)


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

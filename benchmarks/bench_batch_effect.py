"""Silhouette-batch: half the distances in blocks, against scib-metrics; each in a fresh process.

50,000 spots in 50 dimensions, 12 labels of unequal size, 3 batches. CPU seconds of the whole process,
imports and compilation included: scib-metrics compiles for every size of a label, ours once, and
keeps it on disk (one process before the measured one makes it).
"""

import json
import sys
from pathlib import Path

import numpy as np
from measure import arguments, compare, cpu_s, finish, run_apart


def main(argv=None):
    parser = arguments(__doc__, scratch="not used: nothing is written")
    parser.add_argument("--part", nargs=2, help="the side to run, and the number of spots")
    args = parser.parse_args(argv)
    if args.part:
        return run(args.part[0], int(args.part[1]))
    spots = 2_000 if args.quick else 50_000
    here = Path(__file__).resolve()
    run_apart(here, "--part", "ours", 200)
    parts = {side: run_apart(here, "--part", side, spots) for side in ("ours", "theirs")}
    apart = abs(parts["ours"]["value"] - parts["theirs"]["value"])
    if apart > 1e-6:
        raise SystemExit(f"the scores are {apart:.2g} apart")
    size = f"{spots} spots x 50, 12 labels, 3 batches"
    rows = [
        compare(
            "silhouette-batch, scib-metrics",
            parts["ours"]["cpu_s"],
            parts["theirs"]["cpu_s"],
            ">= 5",
            size,
        )
    ]
    finish(args.results, "batch_effect", rows)


def run(side: str, spots: int) -> None:
    """Score made-up spots and print the score with the CPU seconds that the process has used."""
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.geometric(0.2, spots) - 1, 11)
    batch = rng.integers(3, size=spots)
    points = rng.standard_normal((spots, 50)) * np.linspace(5, 0.3, 50) + 2 * labels[:, None]
    points[:, 0] += batch
    points = points.astype(np.float32)
    if side == "ours":
        from pairscape.evaluate.batch_effect import mean_over_labels, score_labels

        value = mean_over_labels(score_labels(points, labels, batch))
    else:
        from scib_metrics import silhouette_batch

        value = silhouette_batch(points, labels, batch)
    print(json.dumps({"value": float(value), "cpu_s": cpu_s()}))


if __name__ == "__main__":
    sys.exit(main())

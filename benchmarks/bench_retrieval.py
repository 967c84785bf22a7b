"""Ranks of partners: blocked counts, against sorting every row and against the bare matrix product.

20,000 pairs of 128 numbers, one direction: the whole split, each sample and other donors in the one
pass of score_retrieval; the other side sorts each row of the same product (torch's argsort, as the
published code does, but in blocks, so that it fits) or takes the product alone. numpy's argsort, which
uses wider registers where the processor has them, is told beside it. CPU seconds of
the calls alone, one thread. Memory is what the process holds beyond one that ranks 200 pairs.
"""

import json
import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a spinning thread costs

import numpy as np
from measure import arguments, compare, cpu_s, finish, run_apart

from pairscape.evaluate import ranks

BLOCK = 200


def main(argv=None):
    parser = arguments(__doc__, scratch="not used: nothing is written")
    parser.add_argument("--part", nargs=2, help="the side to run, and the number of pairs")
    args = parser.parse_args(argv)
    if args.part:
        return run(args.part[0], int(args.part[1]))
    pairs = 2_000 if args.quick else 20_000
    here = Path(__file__).resolve()
    sides = {
        side: run_apart(here, "--part", side, pairs)
        for side in ("count", "sort", "numpy", "product")
    }
    none = run_apart(here, "--part", "count", 200)
    # Blocks of another size give other last bits: a few of 400 million comparisons may turn.
    apart = abs(sides["count"]["better"] - sides["sort"]["better"])
    if apart > 1e-6 * pairs**2:
        raise SystemExit(f"the ranks differ by {apart} in sum")
    size = f"{pairs} pairs x 128"
    ours = sides["count"]["cpu_s"]
    beyond = max(0.1, sides["count"]["anonymous_mb"] - none["anonymous_mb"])
    rows = [
        compare("ranks, sorting every row", ours, sides["sort"]["cpu_s"], ">= 10", size),
        compare("ranks, numpy's wide sort", ours, sides["numpy"]["cpu_s"], ">= 1", size),
        compare("ranks, the bare product", ours, sides["product"]["cpu_s"], "<= 3", size),
        compare("ranks, memory beyond imports", beyond, 300, "<= 1", size, "MB"),
    ]
    finish(args.results, "retrieval", rows)


def run(side: str, pairs: int) -> None:
    """Rank made-up pairs and print the sum of ranks with the CPU seconds that it took."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((pairs, 128), np.float32)
    genes = images + 4 * rng.standard_normal((pairs, 128), np.float32)
    samples = np.arange(pairs) * 8 // pairs
    few = slice(0, 64)
    ranks.rank_pairs(images[few], genes[few], samples[few] // 2, samples[few])  # compiles
    start, better = cpu_s(), 0
    if side == "sort":
        import torch

        torch.set_num_threads(1)
        torch.argsort(torch.zeros(4, 4))
        start = cpu_s()
    if side == "count":
        found = ranks.rank_pairs(images, genes, samples // 2, samples)
        better = int(found["split"][0].better.sum())
    else:
        for at in range(0, pairs, BLOCK):
            product = images[at : at + BLOCK] @ genes.T
            if side == "numpy":
                order = np.argsort(-product, axis=1)
            elif side == "sort":
                order = torch.argsort(torch.from_numpy(product), dim=1, descending=True).numpy()
            if side != "product":
                own = np.arange(at, at + len(order))[:, None]
                better += int(np.argmax(order == own, axis=1).sum())
    print(json.dumps({"better": better, "cpu_s": cpu_s() - start}))


if __name__ == "__main__":
    sys.exit(main())

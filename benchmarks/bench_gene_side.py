"""A training step with stored gene embeddings, against the same step running the gene encoder.

Both sides are frozen; image features are stored in both, so what is trained is the heads (mlp and
linear). Nicheformer and scFoundation have their published size and weights at random: the time of a
step doesn't depend on them. Both steps must give the same loss. Last: what our step on stored
features of both sides costs beside the bare heads, loss and optimiser in plain torch.
"""

import tempfile
from pathlib import Path

import numpy as np
from measure import ROOT, arguments, compare, finish, need_space, repeat

GENES = 280
IMAGE_WIDTH = 1024
ENCODERS = ("nicheformer", "scfoundation")
TRAINING = {
    "image_projection": "mlp",
    "gene_projection": "linear",
    "image_tuning": "frozen",
    "gene_tuning": "frozen",
    "precision": "32-true",
}


def main(argv=None):
    args = arguments(__doc__, scratch="folder for the features").parse_args(argv)
    import torch

    torch.set_num_threads(1)
    batch, times = (8, 1) if args.quick else (16, 3)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 3.0, (batch, GENES))).astype(np.int32)
    images = rng.standard_normal((4096, IMAGE_WIDTH), np.float32)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        need_space(scratch, 20e6)
        np.save(Path(scratch) / "images.npy", images)
        rows = [
            against_encoder(name, counts, Path(scratch), times, args.quick) for name in ENCODERS
        ]
        rows.append(against_torch(Path(scratch), 20 if args.quick else 200, times))
    finish(args.results, "gene_side", rows)


def against_encoder(name: str, counts: np.ndarray, scratch: Path, times: int, quick: bool) -> dict:
    """The row of one encoder."""
    from pairscape.encoders import gene_encoders

    spec, genes = read_spec(name, quick), named_genes()
    tower = gene_encoders.build(spec, None, genes)
    order, stored, steps = np.arange(len(counts)), scratch / f"{name}.npy", 20
    np.save(stored, np.concatenate(list(gene_encoders.embed(tower, counts, order))))
    ours = stepper(spec, genes, scratch / "images.npy", stored, len(counts))
    theirs = stepper(spec, genes, scratch / "images.npy", counts, len(counts), tower)
    losses = ours(0, order), theirs(0, order)
    if not abs(losses[0] - losses[1]) <= 1e-4:
        raise SystemExit(f"{name}: the losses of the two steps are {losses}")
    spent = repeat(
        {
            "ours": lambda: [ours(step, order) for step in range(1, 1 + steps)],
            "theirs": lambda: theirs(1, order),
        },
        times,
    )
    size = f"batch {len(counts)}, {GENES} genes, {(counts > 0).sum(1).mean():.0f} of them in a spot"
    what = f"training step, running {name}"
    return compare(what, spent["ours"] / steps, spent["theirs"], ">= 10", size)


def against_torch(scratch: Path, steps: int, times: int) -> dict:
    """The row of our step with both sides stored, batch 256, beside bare torch."""
    import torch

    batch, rng = 256, np.random.default_rng(1)
    genes = rng.standard_normal((4096, 512), np.float32)
    np.save(scratch / "genes.npy", genes)
    spec = read_spec("nicheformer", True) | {"width": 512}
    ours = stepper(
        spec, named_genes(), scratch / "images.npy", scratch / "genes.npy", batch, width=512
    )
    images = np.load(scratch / "images.npy")
    image_head = torch.nn.Sequential(
        torch.nn.Linear(IMAGE_WIDTH, 256),
        torch.nn.GELU(),
        torch.nn.Dropout(0.2),
        torch.nn.LayerNorm(256),
        torch.nn.Linear(256, 128),
        torch.nn.Dropout(0.2),
    )
    gene_head, scale = torch.nn.Linear(512, 128), torch.nn.Parameter(torch.tensor(2.66))
    trained = [*image_head.parameters(), *gene_head.parameters(), scale]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    orders = [rng.permutation(4096)[:batch] for _ in range(steps)]

    def theirs(order: np.ndarray) -> None:
        x = torch.nn.functional.normalize(image_head(torch.from_numpy(images[order])))
        y = torch.nn.functional.normalize(gene_head(torch.from_numpy(genes[order])))
        logits, partner = scale.exp() * x @ y.T, torch.arange(batch)
        loss = torch.nn.functional.cross_entropy(logits, partner)
        loss = (loss + torch.nn.functional.cross_entropy(logits.T, partner)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()

    ours(0, orders[0])
    theirs(orders[0])
    spent = repeat(
        {
            "ours": lambda: [ours(step, order) for step, order in enumerate(orders)],
            "theirs": lambda: [theirs(order) for order in orders],
        },
        times,
    )
    mine, bare = (spent[name] / steps for name in ("ours", "theirs"))
    size = f"heads only, batch {batch}: {1 / mine:.0f} steps per CPU s"
    return compare("training step, plain torch", mine, bare, "<= 1.25", size)


def stepper(spec, genes, images: Path, gene_inputs, batch: int, tower=None, width=None):
    """A function that takes a step of the training: (number, rows) -> loss."""
    import torch

    from pairscape.pretrain import batches, options, pair, training_loop
    from pairscape.pretrain.processes import World

    training = options.resolve_training({**TRAINING, "batch_size": batch})
    stored = {"images": IMAGE_WIDTH, "genes": None if tower else width or spec["width"]}
    image = {"kind": "image", "input": {}, "weights": None}
    description = pair.describe(image, spec, training, genes, stored)
    torch.manual_seed(0)
    model = pair.Pair(description, {"images": None, "genes": tower}).train()
    world = World(0, 1, torch.device("cpu"))
    training_loop.set_up(model, world)
    if isinstance(gene_inputs, Path):
        gene_inputs = batches.Stored(gene_inputs)
    data = batches.PairRows(batches.Stored(images), gene_inputs, 4096)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)

    def step(number: int, rows: np.ndarray) -> float:
        read = data[number, rows, None]
        found = training_loop.train_step(model, optimizer, read, batch, world, 0, number)
        return float(found["loss"])

    return step


def read_spec(name: str, quick: bool) -> dict:
    """An encoder's file; cut to one layer where it only has to run."""
    from pairscape.encoders import specs
    from pairscape.encoders.architectures.transformer import EncoderLayer

    spec = specs.read_encoder(ROOT / "config" / "encoders", "gene", name)
    if quick:
        sizes = spec["arguments"]
        layer = EncoderLayer(sizes["dim"], sizes["heads"], sizes["feed_forward"], 1e-5)
        one = sum(parameter.numel() for parameter in layer.parameters())
        spec["parameters"] -= (sizes["layers"] - 1) * one
        spec["arguments"] = {**sizes, "layers": 1}
    return spec


def named_genes() -> list[dict]:
    return [{"gene_symbol": f"G{i}", "gene_id": f"ENSG{i:011d}"} for i in range(GENES)]


if __name__ == "__main__":
    main()

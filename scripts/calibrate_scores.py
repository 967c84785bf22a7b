"""Score simulated data whose signal is known: one batch effect and seed, every morphology signal.

IN   a gene panel: a table of gene_symbol, ensembl_id, mean_count_per_spot; the image encoder's weights
OUT  scores.tsv: recall, expression and batch-effect scores, a row per morphology signal, arrangement of
     the donors (apart, or shared between train and test), score and kind

Nothing is kept of the simulated sections: they follow from the options.
"""

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import resolve_part
from pairscape.encoders import specs
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        panel="table of the panel's genes and their mean counts per spot",
        weights="optional: the image encoder's fetched weights; not for those in a Python package",
        scores=program.Output("scores to write (TSV)"),
    )
    options = check_options(args.options)

    from pairscape.calibrate import calibration
    from pairscape.simulation import transcripts

    panel = transcripts.read_panel_table(args.panel)
    genes = [
        dict(zip(("gene_symbol", "gene_id"), gene, strict=True))
        for gene in zip(*panel[:2], strict=True)
    ]
    head = {
        "batch_effect": float(options["batch_effect"]),
        "seed": options["seed"],
        "options_sha256": files.sha256_json(args.options),
    }
    tower = build_tower(options["image_encoder"], args.weights)
    data = calibration.simulate(options, panel)
    space = calibration.embed_counts(data, options)
    splits = {
        name: calibration.rows_of(data, options["donors"], name) for name in calibration.DONORS
    }
    of_counts = {
        name: calibration.score_counts(
            data, "split", calibration.split_of(data, options["donors"], name), options, space
        )
        for name in splits
    }
    of_counts[calibration.EITHER] = calibration.score_counts(
        data, "donor", data.index["donor"].to_numpy(str), options, space
    )
    log.info(
        "batch effect %g, seed %d: %d sections, %d spots",
        options["batch_effect"],
        options["seed"],
        len(data.sections),
        len(data.counts),
    )
    found = []
    for signal in logs.progress(options["morphology_signal"], "signals", unit="signal"):
        patches = calibration.draw_patches(data, options, signal)
        features = embed(tower, options["image_encoder"], patches, args.threads)
        of_signal = {name: list(rows) for name, rows in of_counts.items()}
        for name, rows in splits.items():
            recall = calibration.score_retrieval(data, features, rows, genes, options)
            told = next(row for row in recall if row["gallery"] == "split")
            of_signal[name] += recall
            of_signal[name] += calibration.score_expression(data, features, rows, genes, options)
            log.info(
                "morphology signal %g, donors %s: Recall@5 %.3f (chance %.3f)",
                *(signal, name, told["value"], told["chance"]),
            )
        for name, scored in of_signal.items():
            names = {"morphology_signal": float(signal), "donors": name, **head}
            found += [{"gallery": "", **row, **names} for row in scored]
    calibration.write_scores(args.scores, found)


def check_options(options) -> dict:
    """The options, the defaults of their parts filled in."""
    for name in ("image_encoder", "gene_encoder", "seed", "batch_effect", "calibration"):
        if name not in options:
            raise InputError("--options", name, "nothing", "name it")
    for kind, learns in (("image", None), ("gene", "pair")):
        spec = options[f"{kind}_encoder"]
        specs.require_built(spec, f"the {kind} encoder of the calibration")
        if learns and spec["learned_from"] != learns:
            raise InputError(
                "--options",
                "calibration.gene_encoder",
                f"{spec['title']}, learned from {spec['learned_from']}",
                "name one that is learned with the pair, such as mlp",
            )
    from pairscape.evaluate import batch_effect, expression
    from pairscape.pretrain.options import resolve_training

    grid = resolve_part("calibration", options["calibration"])
    return {
        "image_encoder": options["image_encoder"],
        "gene_encoder": options["gene_encoder"],
        "seed": options["seed"],
        "batch_effect": options["batch_effect"],
        "morphology_signal": grid["morphology_signal"],
        "donors": grid["donors"],
        "simulation": grid["simulation"],
        "training": resolve_training({**grid["training"], "select": "last"}).as_dict(),
        "batch_effect_scoring": batch_effect.check_options(options.get("batch_effect_scoring", {})),
        "expression_scoring": expression.check_options(options.get("expression_scoring", {})),
    }


def build_tower(spec, path):
    """The frozen image encoder."""
    from pairscape.encoders import image_encoders, weights

    return image_encoders.build(spec, weights.find_weights(spec, path))


def embed(tower, spec, patches, threads: int):
    """Embed patches (N, H, W, 3) uint8: (N, width) float32."""
    import numpy as np

    from pairscape.encoders import image_encoders
    from pairscape.images import encoding

    step = image_encoders.batch_size()
    batches = [range(at, min(at + step, len(patches))) for at in range(0, len(patches), step)]

    def read(rows):
        return encoding.fit_all((patches[row] for row in rows), spec["input"])

    return np.concatenate(list(image_encoders.embed(tower, spec, read, batches, threads)))


if __name__ == "__main__":
    program.run(main)

"""Score simulated data whose signal is known: one batch effect and seed, every morphology signal.

IN   a gene panel: a table of gene_symbol, ensembl_id, mean_count_per_spot; the image encoder's weights
OUT  scores.tsv: recall, expression and batch-effect scores, a row per morphology signal, arrangement of
     the donors (apart, or shared between train and test), score and kind

Nothing is kept of the simulated sections: they follow from the options.
"""

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import require_options, resolve_part
from pairscape.encoders import specs
from pairscape.jobs import program

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        panel="table of the panel's genes and their mean counts per spot",
        weights="optional: the image encoder's fetched weights; not for those in a Python package",
        scores=program.Output("scores to write (TSV)"),
    )
    grid = check_options(args.options)

    from pairscape.calibrate import calibration
    from pairscape.simulation.panel import read_panel_table

    panel = read_panel_table(args.panel)
    genes = [
        {"gene_symbol": symbol, "gene_id": gene_id}
        for symbol, gene_id in zip(*panel[:2], strict=True)
    ]
    head = {
        "batch_effect": float(grid.batch_effect),
        "seed": grid.seed,
        "options_sha256": files.sha256_json(args.options),
    }
    tower = build_tower(grid.image_encoder, args.weights)
    data = calibration.simulate(grid, panel)
    space = calibration.embed_counts(data, grid)
    splits = {name: calibration.rows_of(data, grid.donors, name) for name in calibration.DONORS}
    of_counts = {}
    for name in splits:
        split = calibration.split_of(data, grid.donors, name)
        of_counts[name] = calibration.score_counts(data, "split", split, grid, space)
    donors = data.index["donor"].to_numpy(str)
    of_counts[calibration.EITHER] = calibration.score_counts(data, "donor", donors, grid, space)
    log.info(
        "batch effect %g, seed %d: %d sections, %d spots",
        *(grid.batch_effect, grid.seed, len(data.sections), len(data.counts)),
    )
    table = []
    for signal in logs.progress(grid.morphology_signal, "signals", unit="signal"):
        patches = calibration.draw_patches(data, grid, signal)
        features = embed(tower, grid.image_encoder, patches, args.threads)
        of_signal = {name: list(rows) for name, rows in of_counts.items()}
        for name, rows in splits.items():
            recall = calibration.score_retrieval(data, features, rows, genes, grid)
            whole = next(row for row in recall if row["gallery"] == "split")
            of_signal[name] += recall
            of_signal[name] += calibration.score_expression(data, features, rows, genes, grid)
            log.info(
                "morphology signal %g, donors %s: Recall@5 %.3f (chance %.3f)",
                *(signal, name, whole["value"], whole["chance"]),
            )
        for name, scored in of_signal.items():
            names = {"morphology_signal": float(signal), "donors": name, **head}
            table += [{"gallery": "", **row, **names} for row in scored]
    calibration.write_scores(args.scores, table)


def check_options(options):
    """The options as a ``calibration.GridRow``, the defaults of their parts filled in."""
    require_options(options, "image_encoder", "gene_encoder", "seed", "batch_effect", "calibration")
    for kind in ("image", "gene"):
        specs.require_built(options[f"{kind}_encoder"], f"the {kind} encoder of the calibration")
    spec = options["gene_encoder"]
    if spec["learned_from"] != "pair":
        fault = f"{spec['title']}, learned from {spec['learned_from']}"
        remedy = "name one that is learned with the pair, such as mlp"
        raise InputError("--options", "calibration.gene_encoder", fault, remedy)
    from pairscape.calibrate.calibration import CalibrationGrid, GridRow
    from pairscape.evaluate.clustering import BatchEffectOptions
    from pairscape.evaluate.targets import ExpressionOptions
    from pairscape.pretrain.options import resolve_training

    grid = CalibrationGrid(**resolve_part("calibration", options["calibration"]))
    return GridRow(
        image_encoder=options["image_encoder"],
        gene_encoder=spec,
        seed=options["seed"],
        batch_effect=options["batch_effect"],
        morphology_signal=grid.morphology_signal,
        donors=grid.donors,
        simulation=grid.simulation,
        training=resolve_training({**grid.training, "select": "last"}),
        batch_effect_scoring=BatchEffectOptions.of(options.get("batch_effect_scoring", {})),
        expression_scoring=ExpressionOptions.of(options.get("expression_scoring", {})),
    )


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

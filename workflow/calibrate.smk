"""Calibrate: the scores on small simulated datasets whose signal is known.

IN   <panels>/<panel>.tsv, <weights>/image/<encoder>/
OUT  <results>/scores/calibration/, <results>/tables/, <results>/figures/
"""


rule calibrate_scores:
    input:
        panel=lambda w: f"{config['panels']}/{CALIBRATION['panel']}.tsv",
        weights=lambda w: weights_of("image", CALIBRATION["image_encoder"]),
    output:
        scores=f"{RESULTS}/scores/calibration/batch-effect{{batch_effect}}_seed{{seed}}.tsv",
    log:
        f"{RESULTS}/logs/calibrate_scores/batch-effect{{batch_effect}}_seed{{seed}}.log",
    wildcard_constraints:
        batch_effect=r"[0-9.]+",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(120),
    params:
        program=script("calibrate_scores"),
        weights=lambda w: first_flag("--weights", weights_of("image", CALIBRATION["image_encoder"])),
        options=lambda w: options(
            "calibrate_scores",
            image_encoder=ENCODERS["image"][CALIBRATION["image_encoder"]],
            gene_encoder=ENCODERS["gene"][CALIBRATION["gene_encoder"]],
            seed=int(w.seed),
            batch_effect=float(w.batch_effect),
            # The other points of the grid make no difference to this one.
            calibration={
                key: value
                for key, value in CALIBRATION.items()
                if key not in ("batch_effect", "seeds")
            },
            batch_effect_scoring=batch_effect_scoring(),
            expression_scoring=expression_scoring(),
        ),
    shell:
        "python {params.program:q} --panel {input.panel:q} {params.weights}"
        " --scores {output.scores:q} --threads {threads} --options {params.options:q} --log {log:q}"


rule show_calibration:
    input:
        scores=calibration_scores(),
    output:
        table=f"{RESULTS}/tables/calibration.tsv",
        markdown=f"{RESULTS}/tables/calibration.md",
        latex=f"{RESULTS}/tables/calibration.tex",
        png=f"{RESULTS}/figures/calibration.png",
        svg=f"{RESULTS}/figures/calibration.svg",
    log:
        f"{RESULTS}/logs/show_calibration.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_calibration"),
        options=options("show_calibration"),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"

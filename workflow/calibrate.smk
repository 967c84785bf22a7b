"""Calibrate: the scores on small simulated datasets whose signal is known.

IN   <panels>/<panel>.tsv, <weights>/image/<encoder>/
OUT  <results>/scores/calibration/, <results>/tables/, <results>/figures/
"""


rule calibrate_scores:
    input:
        panel=lambda w: f"{plan.config['panels']}/{plan.calibration['panel']}.tsv",
        weights=lambda w: runs.weight_files(plan, "image", plan.calibration["image_encoder"]),
    output:
        scores=f"{plan.results}/scores/calibration/batch-effect{{batch_effect}}_seed{{seed}}.tsv",
    log:
        f"{plan.results}/logs/calibrate_scores/batch-effect{{batch_effect}}_seed{{seed}}.log",
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
        weights=lambda w: commands.first_flag(
            "--weights", runs.weight_files(plan, "image", plan.calibration["image_encoder"])
        ),
        options=lambda w: options(
            "calibrate_scores",
            image_encoder=plan.encoder("image", plan.calibration["image_encoder"]),
            gene_encoder=plan.encoder("gene", plan.calibration["gene_encoder"]),
            seed=int(w.seed),
            batch_effect=float(w.batch_effect),
            # The other points of the grid make no difference to this one.
            calibration={
                key: value
                for key, value in plan.calibration.items()
                if key not in ("batch_effect", "seeds")
            },
            batch_effect_scoring=scores.batch_effect_scoring(plan),
            expression_scoring=scores.expression_scoring(plan),
        ),
    shell:
        "python {params.program:q} --panel {input.panel:q} {params.weights}"
        " --scores {output.scores:q} --threads {threads} --options {params.options:q} --log {log:q}"


rule show_calibration:
    input:
        scores=scores.calibration_scores(plan),
    output:
        table=shown(f"{plan.results}/tables/calibration.tsv", "calibration"),
        markdown=f"{plan.results}/tables/calibration.md",
        latex=f"{plan.results}/tables/calibration.tex",
        png=shown(f"{plan.results}/figures/calibration.png", "calibration"),
        svg=f"{plan.results}/figures/calibration.svg",
    log:
        f"{plan.results}/logs/show_calibration.log",
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

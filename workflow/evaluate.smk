"""Evaluate: scores from stored embeddings, many runs in one process, never from a model.

IN   <results>/runs/<experiment>/<dataset>/
OUT  <results>/scores/<experiment>/<dataset>/
"""


rule score_retrieval:
    input:
        runs=lambda w: [f"{run}/options.json" for run in runs(w.experiment, w.dataset)],
        embeddings=lambda w: [
            f"{run}/embeddings/test{part}"
            for run in runs(w.experiment, w.dataset)
            for part in (".json", ".tsv", "_images.npy", "_genes.npy")
        ],
    output:
        scores=f"{RESULTS}/scores/{{experiment}}/{{dataset}}/retrieval.tsv",
    log:
        f"{RESULTS}/logs/score_retrieval/{{experiment}}_{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        program=script("score_retrieval"),
        options=lambda w: options(
            "score_retrieval",
            experiment=w.experiment,
            dataset=w.dataset,
            split="test",
            seed=config["seed"],
            **config["retrieval"],
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --scores {output.scores:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"

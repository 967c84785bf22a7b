"""Evaluate: scores from stored embeddings, many runs in one process, never from a model.

IN   <results>/runs/<experiment>/<dataset>/, <results>/datasets/<dataset>/
OUT  <results>/scores/<experiment>/<dataset>/, <results>/scores/batch_effect/<dataset>.tsv
"""


rule score_retrieval:
    input:
        runs=lambda w: [told_in(run) for run in runs(w.experiment, w.dataset)],
        embeddings=lambda w: [
            f"{run}/embeddings/test{part}"
            for run in runs(w.experiment, w.dataset)
            if not has_failed(run)
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
        mem_mb=grows(8000, kspots=10),
        runtime=grows(120, kspots=1),
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


rule score_hits:
    input:
        runs=lambda w: [told_in(run) for run in runs(w.experiment, w.dataset)],
        embeddings=lambda w: [
            f"{run}/embeddings/test{part}"
            for run in runs(w.experiment, w.dataset)
            if not has_failed(run)
            for part in (".json", ".tsv", "_images.npy", "_genes.npy")
        ],
    output:
        hits=f"{RESULTS}/scores/{{experiment}}/{{dataset}}/hits.parquet",
    log:
        f"{RESULTS}/logs/score_hits/{{experiment}}_{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000, kspots=10),
        runtime=grows(60, kspots=1),
    params:
        program=script("score_hits"),
        options=lambda w: options(
            "score_hits",
            experiment=w.experiment,
            dataset=w.dataset,
            split="test",
            top=config["hits"]["top"],
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --hits {output.hits:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule score_batch_effect:
    input:
        shards=lambda w: shards_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: genes_of(w.dataset),
    output:
        scores=f"{RESULTS}/scores/batch_effect/{{dataset}}.tsv",
    log:
        f"{RESULTS}/logs/score_batch_effect/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(120, kspots=1),
    params:
        program=script("score_batch_effect"),
        options=lambda w: options("score_batch_effect", dataset=w.dataset, **batch_effect_scoring()),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --scores {output.scores:q} --threads {threads}"
        " --options {params.options:q} --log {log:q}"


rule score_expression:
    input:
        shards=lambda w: shards_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: genes_of(w.dataset),
        features=lambda w: expression_features(w.experiment, w.dataset),
        runs=lambda w: [told_in(run) for run in runs(w.experiment, w.dataset)],
    output:
        scores=f"{RESULTS}/scores/{{experiment}}/{{dataset}}/expression.tsv",
    log:
        f"{RESULTS}/logs/score_expression/{{experiment}}_{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(240, kspots=1),
    params:
        program=script("score_expression"),
        options=lambda w: options(
            "score_expression",
            experiment=w.experiment,
            dataset=w.dataset,
            encoders=expression_encoders(w.experiment),
            **expression_scoring(),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --features {input.features:q} --runs {input.runs:q}"
        " --scores {output.scores:q} --threads {threads} --options {params.options:q} --log {log:q}"

"""Evaluate: scores from stored embeddings, many runs in one process, never from a model.

IN   <results>/runs/<experiment>/<dataset>/, <results>/datasets/<dataset>/
OUT  <results>/scores/<experiment>/<dataset>/, <results>/scores/batch_effect/<dataset>.tsv
"""


rule score_retrieval:
    input:
        runs=lambda w: runs.outcomes(runs.run_folders(plan, w.experiment, w.dataset)),
        embeddings=lambda w: runs.stored_embeddings(runs.run_folders(plan, w.experiment, w.dataset)),
    output:
        scores=f"{plan.results}/scores/{{experiment}}/{{dataset}}/retrieval.tsv",
    log:
        f"{plan.results}/logs/score_retrieval/{{experiment}}_{{dataset}}.log",
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
            seed=plan.config["seed"],
            **plan.config["retrieval"],
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --scores {output.scores:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule score_hits:
    input:
        runs=lambda w: runs.outcomes(runs.run_folders(plan, w.experiment, w.dataset)),
        embeddings=lambda w: runs.stored_embeddings(runs.run_folders(plan, w.experiment, w.dataset)),
    output:
        hits=f"{plan.results}/scores/{{experiment}}/{{dataset}}/hits.parquet",
    log:
        f"{plan.results}/logs/score_hits/{{experiment}}_{{dataset}}.log",
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
            top=plan.config["hits"]["top"],
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --hits {output.hits:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule score_batch_effect:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: datasets.genes_file(plan, w.dataset),
    output:
        scores=f"{plan.results}/scores/batch_effect/{{dataset}}.tsv",
    log:
        f"{plan.results}/logs/score_batch_effect/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(120, kspots=1),
    params:
        program=script("score_batch_effect"),
        options=lambda w: options(
            "score_batch_effect", dataset=w.dataset, **scores.batch_effect_scoring(plan)
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --scores {output.scores:q} --threads {threads}"
        " --options {params.options:q} --log {log:q}"


rule score_expression:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: datasets.genes_file(plan, w.dataset),
        features=lambda w: scores.expression_features(plan, w.experiment, w.dataset),
        runs=lambda w: runs.outcomes(runs.run_folders(plan, w.experiment, w.dataset)),
    output:
        scores=f"{plan.results}/scores/{{experiment}}/{{dataset}}/expression.tsv",
    log:
        f"{plan.results}/logs/score_expression/{{experiment}}_{{dataset}}.log",
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
            encoders=scores.expression_encoders(plan, w.experiment),
            **scores.expression_scoring(plan),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --features {input.features:q} --runs {input.runs:q}"
        " --scores {output.scores:q} --threads {threads} --options {params.options:q} --log {log:q}"

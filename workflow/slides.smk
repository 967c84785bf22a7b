"""Slides: labels of whole slides from the frozen patch embeddings of encoders and pretrained pairs.

IN   the cohort tables and their slides, <weights>/image/<encoder>/, <results>/runs/
OUT  <slides>/<cohort>/ of simulated cohorts, <results>/slides/<cohort>/,
     <results>/mutation/<name>/, <results>/scores/mutation/
"""


rule simulate_slides:
    output:
        table=f"{SLIDES}/{{cohort}}/cohort.tsv",
        truth=f"{SLIDES}/{{cohort}}/truth.tsv",
        slides=directory(f"{SLIDES}/{{cohort}}/slides"),
    log:
        f"{RESULTS}/logs/simulate_slides/{{cohort}}.log",
    wildcard_constraints:
        cohort=one_of(name for name in COHORTS if COHORTS[name]["simulation"]),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(60),
    params:
        program=script("simulate_slides"),
        options=lambda w: options(
            "simulate_slides",
            cohort=w.cohort,
            seed=config["seed"],
            simulation=COHORTS[w.cohort]["simulation"],
        ),
    shell:
        "python {params.program:q} --table {output.table:q} --truth {output.truth:q}"
        " --slides {output.slides:q} --options {params.options:q} --log {log:q}"


rule embed_slides:
    input:
        unpack(model_files),
        table=lambda w: cohort_table(w.cohort),
        given=lambda w: slide_files(w.cohort),
    output:
        slides=f"{RESULTS}/slides/{{cohort}}/{{model}}/slides.tsv",
    log:
        f"{RESULTS}/logs/embed_slides/{{cohort}}_{{model}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(8000),
        runtime=1440,  # a second attempt goes on where the first was stopped
        gpu=1,
    params:
        program=script("embed_slides"),
        model=model_flags,
        figures=slide_figures,
        options=lambda w: options(
            "embed_slides",
            cohort=w.cohort,
            model=w.model,
            root=SLIDES,
            encoder=ENCODERS["image"][MODELS[w.model]["image"]],
            encoder_name=MODELS[w.model]["image"],
            slide_embedding=config["slide_embedding"],
        ),
    shell:
        "python {params.program:q} --cohort {input.table:q} {params.model} --slides {output.slides:q}"
        " {params.figures} --threads {threads} --options {params.options:q} --log {log:q}"


rule split_sites:
    input:
        cohort=lambda w: cohort_table(w.cohort),
    output:
        folds=f"{RESULTS}/slides/{{cohort}}/folds/{{target}}{{dealt}}.tsv",
        balance=f"{RESULTS}/slides/{{cohort}}/folds/{{target}}{{dealt}}.json",
    log:
        f"{RESULTS}/logs/split_sites/{{cohort}}_{{target}}{{dealt}}.log",
    wildcard_constraints:
        dealt="|_leaking",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(20),
    params:
        program=script("split_sites"),
        options=lambda w: options(
            "split_sites",
            cohort=w.cohort,
            target=w.target,
            folds=fold_number(w.cohort, bool(w.dealt)),
            leaking=bool(w.dealt),
            seed=config["seed"],
        ),
    shell:
        "python {params.program:q} --cohort {input.cohort:q} --folds {output.folds:q}"
        " --balance {output.balance:q} --options {params.options:q} --log {log:q}"


rule fit_mutation:
    input:
        unpack(external_files),
        cohort=lambda w: cohort_table(MUTATION[w.mutation]["cohort"]),
        slides=lambda w: slides_table(MUTATION[w.mutation]["cohort"], w.model),
        folds=lambda w: folds_of(
            MUTATION[w.mutation]["cohort"], w.target, MUTATION[w.mutation]["leaking"]
        ),
    output:
        predictions=f"{FIT}/predictions.tsv",
        training=f"{FIT}/training.tsv",
        attention=directory(f"{FIT}/attention"),
    log:
        f"{RESULTS}/logs/fit_mutation/{{mutation}}_{{target}}_{{model}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(8000),
        runtime=grows(1440),
    params:
        program=script("fit_mutation"),
        external=lambda w: " ".join(
            many(f"--{name.replace('_', '-')}", files) for name, files in external_files(w).items()
        ),
        options=lambda w: options(
            "fit_mutation",
            cohort=MUTATION[w.mutation]["cohort"],
            external=MUTATION[w.mutation]["external"],
            target=w.target,
            model=w.model,
            slides_root=SLIDES,
            training=MUTATION[w.mutation]["training"],
            seed=config["seed"],
        ),
    shell:
        "python {params.program:q} --cohort {input.cohort:q} --slides {input.slides:q}"
        " --folds {input.folds:q} {params.external} --predictions {output.predictions:q}"
        " --training {output.training:q} --attention {output.attention:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule score_mutation:
    input:
        predictions=lambda w: mutation_predictions(w.mutation),
    output:
        scores=f"{RESULTS}/scores/mutation/{{mutation}}.tsv",
    log:
        f"{RESULTS}/logs/score_mutation/{{mutation}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        program=script("score_mutation"),
        options=lambda w: options(
            "score_mutation",
            mutation=w.mutation,
            cohort=MUTATION[w.mutation]["cohort"],
            leaking=MUTATION[w.mutation]["leaking"],
            runs=mutation_runs(w.mutation),
            comparisons=mutation_comparisons(w.mutation),
            seed=config["seed"],
            **config["mutation_scores"],
        ),
    shell:
        "python {params.program:q} --predictions {input.predictions:q} --scores {output.scores:q}"
        " --options {params.options:q} --log {log:q}"

"""Slides: labels of whole slides from the frozen patch embeddings of encoders and pretrained pairs.

IN   the cohort tables and their slides, <weights>/image/<encoder>/, <results>/runs/
OUT  <slides>/<cohort>/ of simulated cohorts, <results>/slides/<cohort>/,
     <results>/mutation/<name>/, <results>/scores/mutation/
"""


rule simulate_slides:
    output:
        table=f"{plan.slides}/{{cohort}}/cohort.tsv",
        truth=f"{plan.slides}/{{cohort}}/truth.tsv",
        slides=directory(f"{plan.slides}/{{cohort}}/slides"),
    log:
        f"{plan.results}/logs/simulate_slides/{{cohort}}.log",
    wildcard_constraints:
        cohort=any_of(name for name in plan.cohorts if plan.cohorts[name].simulation),
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
            seed=plan.config["seed"],
            simulation=plan.cohorts[w.cohort].simulation,
        ),
    shell:
        "python {params.program:q} --table {output.table:q} --truth {output.truth:q}"
        " --slides {output.slides:q} --options {params.options:q} --log {log:q}"


# The table isn't an output, which Snakemake would delete first: it holds rows of the user's.
rule fetch_cohort:
    output:
        receipt=f"{plan.results}/cohorts/{{cohort}}.json",
        manifest=f"{plan.results}/cohorts/{{cohort}}.manifest.tsv",
    log:
        f"{plan.results}/logs/fetch_cohort/{{cohort}}.log",
    wildcard_constraints:
        cohort=any_of(slides.fetched_cohorts(plan)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        program=script("fetch_cohort"),
        table=lambda w: slides.cohort_table(plan, w.cohort),
        options=lambda w: options(
            "fetch_cohort",
            cohort=w.cohort,
            fetch=plan.cohorts[w.cohort].fetch,
            portals=plan.config["portals"],
            root=plan.slides,
        ),
    shell:
        "python {params.program:q} --table {params.table:q} --receipt {output.receipt:q}"
        " --manifest {output.manifest:q} --options {params.options:q} --log {log:q}"


rule embed_slides:
    input:
        unpack(lambda w: slides.model_files(plan, w.cohort, w.model)),
        table=lambda w: slides.cohort_table(plan, w.cohort),
        given=lambda w: slides.slide_files(plan, w.cohort),
    output:
        slides=f"{plan.results}/slides/{{cohort}}/{{model}}/slides.tsv",
    log:
        f"{plan.results}/logs/embed_slides/{{cohort}}_{{model}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(8000),
        runtime=1440,  # a second attempt goes on where the first was stopped
        gpu=1,
    params:
        program=script("embed_slides"),
        model=lambda w: slides.model_flags(plan, w.cohort, w.model),
        figures=lambda w: slides.slide_figures(plan, w.cohort, w.model),
        options=lambda w: options(
            "embed_slides",
            cohort=w.cohort,
            model=w.model,
            root=plan.slides,
            encoder=plan.encoder("image", plan.models[w.model].image),
            encoder_name=plan.models[w.model].image,
            slide_embedding=plan.config["slide_embedding"],
        ),
    shell:
        "python {params.program:q} --cohort {input.table:q} {params.model} --slides {output.slides:q}"
        " {params.figures} --threads {threads} --options {params.options:q} --log {log:q}"


rule split_sites:
    input:
        cohort=lambda w: slides.cohort_table(plan, w.cohort),
    output:
        folds=f"{plan.results}/slides/{{cohort}}/folds/{{target}}{{dealt}}.tsv",
        balance=f"{plan.results}/slides/{{cohort}}/folds/{{target}}{{dealt}}.json",
    log:
        f"{plan.results}/logs/split_sites/{{cohort}}_{{target}}{{dealt}}.log",
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
            folds=slides.fold_number(plan, w.cohort, bool(w.dealt)),
            leaking=bool(w.dealt),
            seed=plan.config["seed"],
        ),
    shell:
        "python {params.program:q} --cohort {input.cohort:q} --folds {output.folds:q}"
        " --balance {output.balance:q} --options {params.options:q} --log {log:q}"


rule fit_mutation:
    input:
        unpack(lambda w: slides.external_files(plan, w.mutation, w.model)),
        cohort=lambda w: slides.cohort_table(plan, plan.mutation[w.mutation].cohort),
        slides=lambda w: slides.slides_table(plan, plan.mutation[w.mutation].cohort, w.model),
        folds=lambda w: slides.folds_of(plan, w.mutation, w.target),
    output:
        predictions=f"{plan.mutation_fit}/predictions.tsv",
        training=f"{plan.mutation_fit}/training.tsv",
        attention=directory(f"{plan.mutation_fit}/attention"),
    log:
        f"{plan.results}/logs/fit_mutation/{{mutation}}_{{target}}_{{model}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(8000),
        runtime=grows(1440),
    params:
        program=script("fit_mutation"),
        external=lambda w: slides.external_flags(plan, w.mutation, w.model),
        options=lambda w: options(
            "fit_mutation",
            cohort=plan.mutation[w.mutation].cohort,
            external=plan.mutation[w.mutation].external,
            target=w.target,
            model=w.model,
            slides_root=plan.slides,
            training=plan.mutation[w.mutation].training,
            seed=plan.config["seed"],
        ),
    shell:
        "python {params.program:q} --cohort {input.cohort:q} --slides {input.slides:q}"
        " --folds {input.folds:q} {params.external} --predictions {output.predictions:q}"
        " --training {output.training:q} --attention {output.attention:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule score_mutation:
    input:
        predictions=lambda w: slides.prediction_files(plan, w.mutation),
    output:
        scores=f"{plan.results}/scores/mutation/{{mutation}}.tsv",
    log:
        f"{plan.results}/logs/score_mutation/{{mutation}}.log",
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
            cohort=plan.mutation[w.mutation].cohort,
            leaking=plan.mutation[w.mutation].leaking,
            runs=slides.mutation_runs(plan, w.mutation),
            comparisons=slides.mutation_comparisons(plan, w.mutation),
            seed=plan.config["seed"],
            **plan.config["mutation_scores"],
        ),
    shell:
        "python {params.program:q} --predictions {input.predictions:q} --scores {output.scores:q}"
        " --options {params.options:q} --log {log:q}"

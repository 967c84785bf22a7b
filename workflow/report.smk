"""Report: tables, figures and one HTML page.

IN   <results>/scores/, and what the stages before say of themselves
OUT  <results>/tables/, <results>/figures/, <results>/report.html
"""


rule show_retrieval:
    input:
        scores=lambda w: scores_of(w.experiment),
    output:
        table=f"{RESULTS}/tables/retrieval_{{experiment}}.tsv",
        markdown=f"{RESULTS}/tables/retrieval_{{experiment}}.md",
        latex=f"{RESULTS}/tables/retrieval_{{experiment}}.tex",
        nearby=multiext(f"{RESULTS}/tables/retrieval-nearby_{{experiment}}", ".tsv", ".md", ".tex"),
        groups=multiext(f"{RESULTS}/tables/retrieval-groups_{{experiment}}", ".tsv", ".md", ".tex"),
        comparisons=multiext(
            f"{RESULTS}/tables/retrieval-comparisons_{{experiment}}", ".tsv", ".md", ".tex"
        ),
        png=f"{RESULTS}/figures/retrieval_{{experiment}}.png",
        svg=f"{RESULTS}/figures/retrieval_{{experiment}}.svg",
    log:
        f"{RESULTS}/logs/show_retrieval/{{experiment}}.log",
    wildcard_constraints:
        experiment=one_of(SHOWN),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_retrieval"),
        options=lambda w: options(
            "show_retrieval",
            experiment=SHOWN[w.experiment][0],
            expected=expected_runs(w.experiment),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q} --nearby {output.nearby:q}"
        " --groups {output.groups:q} --comparisons {output.comparisons:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"


rule show_hits:
    input:
        hits=lambda w: hits_of(w.experiment),
    output:
        table=f"{RESULTS}/tables/hits_{{experiment}}.tsv",
        markdown=f"{RESULTS}/tables/hits_{{experiment}}.md",
        latex=f"{RESULTS}/tables/hits_{{experiment}}.tex",
    log:
        f"{RESULTS}/logs/show_hits/{{experiment}}.log",
    wildcard_constraints:
        experiment=one_of(WITH_EXPRESSION),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(10),
    params:
        program=script("show_hits"),
        options=lambda w: options("show_hits", experiment=SHOWN[w.experiment][0]),
    shell:
        "python {params.program:q} --hits {input.hits:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --options {params.options:q} --log {log:q}"


rule show_batch_effect:
    input:
        scores=lambda w: batch_effect_scores(SHOWN[w.experiment][1]),
        retrieval=lambda w: scores_of(w.experiment),
    output:
        png=f"{RESULTS}/figures/batch_effect_{{experiment}}.png",
        svg=f"{RESULTS}/figures/batch_effect_{{experiment}}.svg",
        numbers=f"{RESULTS}/figures/batch_effect_{{experiment}}.tsv",
    log:
        f"{RESULTS}/logs/show_batch_effect/{{experiment}}.log",
    wildcard_constraints:
        experiment=one_of(SHOWN),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_batch_effect"),
        retrieval=lambda w, input: many("--retrieval", input.get("retrieval", [])),
        made=lambda w, output: made_flags(output),
        options=lambda w: options(
            "show_batch_effect",
            experiment=SHOWN[w.experiment][0],
            panels={name: DATASETS[name]["panel"] for name in SHOWN[w.experiment][1]},
            resolution=config["batch_effect"]["resolution"],
            recall_at=config["batch_effect"]["recall_at"],
            pair=batch_effect_pair(SHOWN[w.experiment][0]),
            seed=config["batch_effect"]["seed"],
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} {params.retrieval} {params.made}"
        " --options {params.options:q} --log {log:q}"


# The table over all datasets.
use rule show_batch_effect as show_batch_effects with:
    input:
        scores=batch_effect_scores(DATASETS_IN_ALL),
    output:
        table=f"{RESULTS}/tables/batch_effect.tsv",
        markdown=f"{RESULTS}/tables/batch_effect.md",
        latex=f"{RESULTS}/tables/batch_effect.tex",
    log:
        f"{RESULTS}/logs/show_batch_effects.log",
    params:
        program=script("show_batch_effect"),
        retrieval="",
        made=lambda w, output: made_flags(output),
        options=options("show_batch_effect", resolution=config["batch_effect"]["resolution"]),


rule show_expression:
    input:
        scores=lambda w: expression_scores(w.experiment),
    output:
        table=f"{RESULTS}/tables/expression_{{experiment}}.tsv",
        markdown=f"{RESULTS}/tables/expression_{{experiment}}.md",
        latex=f"{RESULTS}/tables/expression_{{experiment}}.tex",
        png=f"{RESULTS}/figures/expression_{{experiment}}.png",
        svg=f"{RESULTS}/figures/expression_{{experiment}}.svg",
    log:
        f"{RESULTS}/logs/show_expression/{{experiment}}.log",
    wildcard_constraints:
        experiment=one_of(WITH_EXPRESSION),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(10),
    params:
        program=script("show_expression"),
        options=lambda w: options(
            "show_expression",
            experiment=SHOWN[w.experiment][0],
            expected=expected_runs(w.experiment),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"


rule show_mutation:
    input:
        scores=f"{RESULTS}/scores/mutation/{{mutation}}.tsv",
    output:
        png=f"{RESULTS}/figures/mutation_{{mutation}}.png",
        svg=f"{RESULTS}/figures/mutation_{{mutation}}.svg",
    log:
        f"{RESULTS}/logs/show_mutation/{{mutation}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_mutation"),
        balance=lambda w, input: many("--balance", input.get("balance", [])),
        made=lambda w, output: made_flags(output),
        options=lambda w: options(
            "show_mutation", mutation=w.mutation, expected=mutation_models([w.mutation])
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} {params.balance} {params.made}"
        " --options {params.options:q} --log {log:q}"


# The table over all entries.
use rule show_mutation as show_mutations with:
    input:
        scores=[f"{RESULTS}/scores/mutation/{name}.tsv" for name in tabled_mutation()],
        balance=mutation_balances(tabled_mutation()),
    output:
        table=f"{RESULTS}/tables/mutation.tsv",
        markdown=f"{RESULTS}/tables/mutation.md",
        latex=f"{RESULTS}/tables/mutation.tex",
    log:
        f"{RESULTS}/logs/show_mutations.log",
    params:
        program=script("show_mutation"),
        balance=lambda w, input: many("--balance", input.get("balance", [])),
        made=lambda w, output: made_flags(output),
        options=options("show_mutation", expected=mutation_models(tabled_mutation())),


rule write_report:
    input:
        tables=[f"{RESULTS}/tables/retrieval_{experiment}.tsv" for experiment in IN_ALL]
        + hits_files(".tsv")
        + batch_effect_files(".tsv")
        + expression_files(".tsv")
        + mutation_files(".tsv")
        + calibration_files(".tsv")
        + audit_files(".tsv")
        + gap_files(".tsv"),
        figures=[f"{RESULTS}/figures/retrieval_{experiment}.png" for experiment in IN_ALL]
        + batch_effect_files(".png")
        + expression_files(".png")
        + mutation_files(".png")
        + calibration_files(".png")
        + audit_files(".png"),
        curves=all_runs("curve.png"),
        run_options=all_runs("options.json") + audit_run_files("options.json"),
        checks=[f"{RESULTS}/samples/{sample}/check.json" for sample in dict(used_samples())],
        alignments=of_aligned("alignment.json"),
        overlays=of_aligned("overlay.png"),
        audits=[
            f"{RESULTS}/samples/{sample}/{spots}/audit.json" for sample, spots in used_samples()
        ],
        spot_figures=[
            f"{RESULTS}/samples/{sample}/{spots}/qc.png" for sample, spots in used_samples()
        ],
        splits=[f"{RESULTS}/datasets/{dataset}/splits.tsv" for dataset in reported_datasets()],
        leakage=[f"{RESULTS}/datasets/{dataset}/leakage.tsv" for dataset in reported_datasets()],
    output:
        report=f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/write_report.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(20),
    params:
        program=script("write_report"),
        options=options(
            "write_report",
            title=config["title"],
            experiments=IN_ALL,
            samples=[
                facts(
                    sample, "source", "organ", "disease_state", "donor", "donor_known", "license"
                )
                for sample in dict(used_samples())
            ],
        ),
    shell:
        "python {params.program:q} --tables {input.tables:q} --figures {input.figures:q}"
        " --curves {input.curves:q} --run-options {input.run_options:q} --checks {input.checks:q}"
        " --alignments {input.alignments:q} --overlays {input.overlays:q}"
        " --audits {input.audits:q} --spot-figures {input.spot_figures:q}"
        " --splits {input.splits:q} --leakage {input.leakage:q} --report {output.report:q}"
        " --options {params.options:q} --log {log:q}"


# ---------------------------------------------------------------- the gap to the published numbers
# {comparison}: an experiment, or the beginning of the names of an ablation's levels.


rule compare_published:
    input:
        scores=lambda w: [
            file for name in compared_experiments(w.comparison) for file in scores_of(name)
        ],
        published="config/published/retrieval.tsv",
        ablations="config/published/ablations.tsv",
    output:
        table=f"{RESULTS}/tables/published-gap_{{comparison}}.tsv",
        markdown=f"{RESULTS}/tables/published-gap_{{comparison}}.md",
        latex=f"{RESULTS}/tables/published-gap_{{comparison}}.tex",
        ranks=f"{RESULTS}/tables/published-ranks_{{comparison}}.tsv",
    log:
        f"{RESULTS}/logs/compare_published/{{comparison}}.log",
    wildcard_constraints:
        comparison="[A-Za-z0-9_.-]+",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("compare_published"),
        scores=lambda w, input: many("--scores", input.get("scores", [])),
        options=lambda w: options("compare_published", **gap_options(w.comparison)),
    shell:
        "python {params.program:q} {params.scores} --published {input.published:q}"
        " --ablations {input.ablations:q} --table {output.table:q} --markdown {output.markdown:q}"
        " --latex {output.latex:q} --ranks {output.ranks:q} --options {params.options:q} --log {log:q}"


# The same from the scores that are on disk, whatever else is planned: it trains nothing.
use rule compare_published as compare_published_so_far with:
    input:
        scores=lambda w: [
            file
            for name in compared_experiments(w.comparison)
            for file in scores_of(name)
            if Path(file).is_file()
        ],
        published="config/published/retrieval.tsv",
        ablations="config/published/ablations.tsv",
    output:
        table=f"{RESULTS}/tables/published-gap-so-far_{{comparison}}.tsv",
        markdown=f"{RESULTS}/tables/published-gap-so-far_{{comparison}}.md",
        latex=f"{RESULTS}/tables/published-gap-so-far_{{comparison}}.tex",
        ranks=f"{RESULTS}/tables/published-ranks-so-far_{{comparison}}.tsv",
    log:
        f"{RESULTS}/logs/compare_published/so-far_{{comparison}}.log",

"""Report: tables, figures and one HTML page.

IN   <results>/scores/, and what the stages before say of themselves
OUT  <results>/tables/, <results>/figures/, <results>/report.html
"""


rule show_retrieval:
    input:
        scores=lambda w: scores.score_files(plan, w.experiment, "retrieval.tsv"),
    output:
        table=shown(f"{plan.results}/tables/retrieval_{{experiment}}.tsv", "retrieval"),
        markdown=f"{plan.results}/tables/retrieval_{{experiment}}.md",
        latex=f"{plan.results}/tables/retrieval_{{experiment}}.tex",
        nearby=multiext(
            f"{plan.results}/tables/retrieval-nearby_{{experiment}}", ".tsv", ".md", ".tex"
        ),
        groups=multiext(
            f"{plan.results}/tables/retrieval-groups_{{experiment}}", ".tsv", ".md", ".tex"
        ),
        comparisons=multiext(
            f"{plan.results}/tables/retrieval-comparisons_{{experiment}}", ".tsv", ".md", ".tex"
        ),
        png=shown(f"{plan.results}/figures/retrieval_{{experiment}}.png", "retrieval"),
        svg=f"{plan.results}/figures/retrieval_{{experiment}}.svg",
    log:
        f"{plan.results}/logs/show_retrieval/{{experiment}}.log",
    wildcard_constraints:
        experiment=any_of(plan.shown),
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
            experiment=plan.shown[w.experiment][0],
            expected=runs.expected_runs(plan, w.experiment),
            titles=scores.encoder_titles(plan, w.experiment),
            **missing.told(plan, plan.shown[w.experiment][1]),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q} --nearby {output.nearby:q}"
        " --groups {output.groups:q} --comparisons {output.comparisons:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"


rule show_hits:
    input:
        hits=lambda w: scores.score_files(plan, w.experiment, "hits.parquet"),
        shards=lambda w: scores.shown_shards(plan, w.experiment),
    output:
        table=shown(f"{plan.results}/tables/hits_{{experiment}}.tsv", "hits"),
        markdown=f"{plan.results}/tables/hits_{{experiment}}.md",
        latex=f"{plan.results}/tables/hits_{{experiment}}.tex",
        png=f"{plan.results}/figures/hits_{{experiment}}.png",
        svg=f"{plan.results}/figures/hits_{{experiment}}.svg",
    log:
        f"{plan.results}/logs/show_hits/{{experiment}}.log",
    wildcard_constraints:
        experiment=any_of(plan.with_expression),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(10),
    params:
        program=script("show_hits"),
        options=lambda w: options(
            "show_hits",
            experiment=plan.shown[w.experiment][0],
            homes={name: datasets.shards_home(plan, name) for name in plan.shown[w.experiment][1]},
            controls=scores.control_pairs(plan, w.experiment),
            titles=scores.encoder_titles(plan, w.experiment),
            **missing.told(plan, plan.shown[w.experiment][1]),
        ),
    shell:
        "python {params.program:q} --hits {input.hits:q} --shards {input.shards:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q} --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"


rule show_batch_effect:
    input:
        scores=lambda w: scores.batch_effect_scores(plan, plan.shown[w.experiment][1]),
        retrieval=lambda w: scores.score_files(plan, w.experiment, "retrieval.tsv"),
    output:
        png=shown(f"{plan.results}/figures/batch_effect_{{experiment}}.png", "batch_effect"),
        svg=f"{plan.results}/figures/batch_effect_{{experiment}}.svg",
        numbers=f"{plan.results}/figures/batch_effect_{{experiment}}.tsv",
    log:
        f"{plan.results}/logs/show_batch_effect/{{experiment}}.log",
    wildcard_constraints:
        experiment=any_of(plan.shown),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_batch_effect"),
        retrieval=lambda w, input: commands.many("--retrieval", input.get("retrieval", [])),
        made=lambda w, output: commands.made_flags(output),
        options=lambda w: options(
            "show_batch_effect",
            experiment=plan.shown[w.experiment][0],
            panels={name: plan.datasets[name].panel for name in plan.shown[w.experiment][1]},
            resolution=plan.config["batch_effect"]["resolution"],
            recall_at=plan.config["batch_effect"]["recall_at"],
            pair=scores.batch_effect_pair(plan, plan.shown[w.experiment][0]),
            seed=plan.config["batch_effect"]["seed"],
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} {params.retrieval} {params.made}"
        " --options {params.options:q} --log {log:q}"


# The table over all datasets.
use rule show_batch_effect as show_batch_effects with:
    input:
        scores=scores.batch_effect_scores(plan, plan.datasets_in_all),
    output:
        table=shown(f"{plan.results}/tables/batch_effect.tsv", "batch_effect"),
        markdown=f"{plan.results}/tables/batch_effect.md",
        latex=f"{plan.results}/tables/batch_effect.tex",
    log:
        f"{plan.results}/logs/show_batch_effects.log",
    params:
        program=script("show_batch_effect"),
        retrieval="",
        made=lambda w, output: commands.made_flags(output),
        options=options(
            "show_batch_effect",
            resolution=plan.config["batch_effect"]["resolution"],
            **missing.told(plan, plan.datasets_in_all),
        ),


rule show_expression:
    input:
        scores=lambda w: scores.score_files(plan, w.experiment, "expression.tsv"),
    output:
        table=shown(f"{plan.results}/tables/expression_{{experiment}}.tsv", "expression"),
        markdown=f"{plan.results}/tables/expression_{{experiment}}.md",
        latex=f"{plan.results}/tables/expression_{{experiment}}.tex",
        png=shown(f"{plan.results}/figures/expression_{{experiment}}.png", "expression"),
        svg=f"{plan.results}/figures/expression_{{experiment}}.svg",
    log:
        f"{plan.results}/logs/show_expression/{{experiment}}.log",
    wildcard_constraints:
        experiment=any_of(plan.with_expression),
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
            experiment=plan.shown[w.experiment][0],
            expected=runs.expected_runs(plan, w.experiment),
            titles=scores.encoder_titles(plan, w.experiment),
            **missing.told(plan, plan.shown[w.experiment][1]),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"


rule show_mutation:
    input:
        scores=f"{plan.results}/scores/mutation/{{mutation}}.tsv",
    output:
        png=shown(f"{plan.results}/figures/mutation_{{mutation}}.png", "mutation"),
        svg=f"{plan.results}/figures/mutation_{{mutation}}.svg",
    log:
        f"{plan.results}/logs/show_mutation/{{mutation}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_mutation"),
        balance=lambda w, input: commands.many("--balance", input.get("balance", [])),
        made=lambda w, output: commands.made_flags(output),
        options=lambda w: options(
            "show_mutation",
            mutation=w.mutation,
            expected=slides.predictions_of(plan, [w.mutation]),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} {params.balance} {params.made}"
        " --options {params.options:q} --log {log:q}"


# The table over all entries.
use rule show_mutation as show_mutations with:
    input:
        scores=slides.tabled_scores(plan),
        balance=slides.balances(plan),
    output:
        table=shown(f"{plan.results}/tables/mutation.tsv", "mutation"),
        markdown=f"{plan.results}/tables/mutation.md",
        latex=f"{plan.results}/tables/mutation.tex",
    log:
        f"{plan.results}/logs/show_mutations.log",
    params:
        program=script("show_mutation"),
        balance=lambda w, input: commands.many("--balance", input.get("balance", [])),
        made=lambda w, output: commands.made_flags(output),
        options=options(
            "show_mutation",
            expected=slides.predictions_of(plan, slides.tabled(plan)),
            **missing.told(plan, slides.pretrained_on(plan, slides.tabled(plan))),
        ),


rule write_report:
    input:
        tables=scores.retrieval_files(plan, ".tsv")
        + scores.hits_files(plan, ".tsv")
        + scores.batch_effect_files(plan, ".tsv")
        + scores.expression_files(plan, ".tsv")
        + slides.mutation_files(plan, ".tsv")
        + scores.calibration_files(plan, ".tsv")
        + scores.audit_files(plan, ".tsv")
        + scores.gap_files(plan, ".tsv"),
        figures=scores.retrieval_files(plan, ".png")
        + scores.hits_files(plan, ".png")
        + scores.batch_effect_files(plan, ".png")
        + scores.expression_files(plan, ".png")
        + slides.mutation_files(plan, ".png")
        + scores.calibration_files(plan, ".png")
        + scores.audit_files(plan, ".png"),
        curves=runs.run_files(plan, "curve.png"),
        run_options=runs.run_files(plan, "options.json")
        + runs.audit_run_files(plan, "options.json"),
        checks=samples.sample_files(plan, "check.json"),
        alignments=samples.aligned_files(plan, "alignment.json"),
        overlays=samples.aligned_files(plan, "overlay.png"),
        audits=samples.spot_files(plan, "audit.json"),
        spot_figures=samples.spot_files(plan, "qc.png"),
        splits=datasets.reported_files(plan, "splits.tsv"),
        leakage=datasets.reported_files(plan, "leakage.tsv"),
    output:
        report=shown(f"{plan.results}/report.html", "report"),
    log:
        f"{plan.results}/logs/write_report.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(20),
    params:
        program=script("write_report"),
        files=lambda w, input: commands.read_flags(input),
        options=options(
            "write_report",
            title=plan.config["title"],
            experiments=plan.in_all,
            samples=[
                plan.facts(
                    sample, "source", "organ", "disease_state", "donor", "donor_known", "license"
                )
                for sample in dict(samples.used_samples(plan))
            ],
            **missing.told(plan, datasets.reported_datasets(plan)),
        ),
    shell:
        "python {params.program:q} {params.files} --report {output.report:q}"
        " --options {params.options:q} --log {log:q}"


rule write_viewer:
    input:
        unpack(lambda w: samples.he_on_disk(plan, w.sample)),
        unpack(lambda w: scores.viewer_inputs(plan, w.sample, w.spots)),
        spots=f"{plan.results}/samples/{{sample}}/{{spots}}/spots.zarr",
    output:
        viewer=f"{plan.results}/samples/{{sample}}/{{spots}}/viewer.html",
        geojson=f"{plan.results}/samples/{{sample}}/{{spots}}/spots.geojson",
    log:
        f"{plan.results}/logs/write_viewer/{{sample}}_{{spots}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000, kspots=60),
        runtime=grows(20),
    params:
        program=script("write_viewer"),
        files=lambda w: scores.viewer_flags(plan, w.sample, w.spots),
        options=lambda w: options(
            "write_viewer", sample=w.sample, parts=scores.viewer_parts(plan, w.sample)
        ),
    shell:
        "python {params.program:q} --spots {input.spots:q} {params.files} --viewer {output.viewer:q}"
        " --geojson {output.geojson:q} --options {params.options:q} --log {log:q}"


rule write_leaderboard:  # of what is there: it makes no table of these folders
    input:
        lambda w: scores.finished_tables(plan),
    output:
        board=f"{plan.results}/leaderboard.tsv",
        page=f"{plan.results}/leaderboard.html",
    log:
        f"{plan.results}/logs/write_leaderboard.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        program=script("write_leaderboard"),
        folders=lambda w: scores.leaderboard_folders(plan),
        options=lambda w: options("write_leaderboard"),
    shell:
        "python {params.program:q} --folders {params.folders:q} --board {output.board:q}"
        " --page {output.page:q} --options {params.options:q} --log {log:q}"


# ---------------------------------------------------------------- the gap to the published numbers
# {comparison}: an experiment, or the beginning of the names of an ablation's levels.


rule compare_published:
    input:
        scores=lambda w: asked(scores.compared_scores, w.comparison),
        published="config/published/retrieval.tsv",
        ablations="config/published/ablations.tsv",
    output:
        table=shown(f"{plan.results}/tables/published-gap_{{comparison}}.tsv", "published_gap"),
        markdown=f"{plan.results}/tables/published-gap_{{comparison}}.md",
        latex=f"{plan.results}/tables/published-gap_{{comparison}}.tex",
        ranks=f"{plan.results}/tables/published-ranks_{{comparison}}.tsv",
    log:
        f"{plan.results}/logs/compare_published/{{comparison}}.log",
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
        scores=lambda w, input: commands.many("--scores", input.get("scores", [])),
        options=lambda w: options(
            "compare_published",
            **asked(scores.gap_options, w.comparison),
            **missing.told(plan, asked(scores.gap_options, w.comparison)["datasets"]),
        ),
    shell:
        "python {params.program:q} {params.scores} --published {input.published:q}"
        " --ablations {input.ablations:q} --table {output.table:q} --markdown {output.markdown:q}"
        " --latex {output.latex:q} --ranks {output.ranks:q} --options {params.options:q} --log {log:q}"


# The same from the scores that are on disk, whatever else is planned: it trains nothing.
use rule compare_published as compare_published_so_far with:
    input:
        scores=lambda w: asked(scores.scores_so_far, w.comparison),
        published="config/published/retrieval.tsv",
        ablations="config/published/ablations.tsv",
    output:
        table=shown(
            f"{plan.results}/tables/published-gap-so-far_{{comparison}}.tsv", "published_gap"
        ),
        markdown=f"{plan.results}/tables/published-gap-so-far_{{comparison}}.md",
        latex=f"{plan.results}/tables/published-gap-so-far_{{comparison}}.tex",
        ranks=f"{plan.results}/tables/published-ranks-so-far_{{comparison}}.tsv",
    log:
        f"{plan.results}/logs/compare_published/so-far_{{comparison}}.log",

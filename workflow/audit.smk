"""Audit: what each quirk of the published code does to recall, one at a time.

IN   <results>/runs/<experiment>/<dataset>/
OUT  <results>/scores/audit/, <results>/tables/, <results>/figures/
"""


rule score_audit:
    input:
        runs=lambda w: runs.outcomes(runs.audit_run_folders(plan, w.audit)),
        embeddings=lambda w: runs.stored_embeddings(runs.audit_run_folders(plan, w.audit)),
    output:
        scores=f"{plan.results}/scores/audit/{{audit}}.tsv",
    log:
        f"{plan.results}/logs/score_audit/{{audit}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(8000),
        runtime=grows(240),
    params:
        program=script("score_audit"),
        options=lambda w: options(
            "score_audit",
            audit=w.audit,
            rows=runs.audited_runs(plan, w.audit),
            recall_at=[5],
            seed=plan.config["seed"],
            **{
                key: plan.config["retrieval"][key]
                for key in ("bootstrap", "block_um", "in_batch", "in_batch_ranks", "device")
            },
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --scores {output.scores:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule show_audit:
    input:
        scores=f"{plan.results}/scores/audit/{{audit}}.tsv",
    output:
        table=shown(f"{plan.results}/tables/audit_{{audit}}.tsv", "audit"),
        markdown=f"{plan.results}/tables/audit_{{audit}}.md",
        latex=f"{plan.results}/tables/audit_{{audit}}.tex",
        png=shown(f"{plan.results}/figures/audit_{{audit}}.png", "audit"),
        svg=f"{plan.results}/figures/audit_{{audit}}.svg",
    log:
        f"{plan.results}/logs/show_audit/{{audit}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_audit"),
        options=lambda w: options(
            "show_audit",
            audit=w.audit,
            **missing.told(plan, (row["dataset"] for row in runs.audited_runs(plan, w.audit))),
        ),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"

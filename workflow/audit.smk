"""Audit: what each quirk of the published code does to recall, one at a time.

IN   <results>/runs/<experiment>/<dataset>/
OUT  <results>/scores/audit/, <results>/tables/, <results>/figures/
"""


rule score_audit:
    input:
        runs=lambda w: [told_in(run) for run in audit_run_folders(w.audit)],
        embeddings=lambda w: [
            f"{run}/embeddings/test{part}"
            for run in audit_run_folders(w.audit)
            if not has_failed(run)
            for part in (".json", ".tsv", "_images.npy", "_genes.npy")
        ],
    output:
        scores=f"{RESULTS}/scores/audit/{{audit}}.tsv",
    log:
        f"{RESULTS}/logs/score_audit/{{audit}}.log",
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
            rows=audited_runs(w.audit),
            recall_at=[5],
            seed=config["seed"],
            **{
                key: config["retrieval"][key]
                for key in ("bootstrap", "block_um", "in_batch", "in_batch_ranks", "device")
            },
        ),
    shell:
        "python {params.program:q} --runs {input.runs:q} --scores {output.scores:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule show_audit:
    input:
        scores=f"{RESULTS}/scores/audit/{{audit}}.tsv",
    output:
        table=f"{RESULTS}/tables/audit_{{audit}}.tsv",
        markdown=f"{RESULTS}/tables/audit_{{audit}}.md",
        latex=f"{RESULTS}/tables/audit_{{audit}}.tex",
        png=f"{RESULTS}/figures/audit_{{audit}}.png",
        svg=f"{RESULTS}/figures/audit_{{audit}}.svg",
    log:
        f"{RESULTS}/logs/show_audit/{{audit}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("show_audit"),
        options=lambda w: options("show_audit", audit=w.audit),
    shell:
        "python {params.program:q} --scores {input.scores:q} --table {output.table:q}"
        " --markdown {output.markdown:q} --latex {output.latex:q}"
        " --png {output.png:q} --svg {output.svg:q}"
        " --options {params.options:q} --log {log:q}"

"""Datasets: which genes, which donor in which split, and the image-gene pairs in Arrow.

IN   <results>/samples/<sample>/<spots>/, the H&E images; or a copy of the published data set
OUT  <results>/datasets/<dataset>/{genes.tsv,splits.tsv,leakage.tsv,patch_leakage.tsv,shards/,data/,
     README.md}, <results>/datasets/README.md
     and when asked for: <results>/audits/splits/, <results>/datasets/pushed.json
"""

AUDITED_SPLITS = datasets.audited_splits(plan)


rule select_genes:
    input:
        unpack(lambda w: datasets.panel_file(plan.config, plan.datasets[w.dataset].panel)),
        spots=lambda w: datasets.spots_files(plan, w.dataset),
    output:
        genes=f"{plan.results}/datasets/{{dataset}}/genes.tsv",
    log:
        f"{plan.results}/logs/select_genes/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(20),
    params:
        program=script("select_genes"),
        spots=lambda w: commands.many("--spots", datasets.spots_files(plan, w.dataset)),
        panel=lambda w: commands.flags(
            datasets.panel_file(plan.config, plan.datasets[w.dataset].panel), "panel"
        ),
        options=lambda w: options(
            "select_genes",
            dataset=w.dataset,
            panel=plan.datasets[w.dataset].panel,
            samples=plan.datasets[w.dataset].samples,
            min_panel_share=plan.datasets[w.dataset].min_panel_share,
        ),
    shell:
        "python {params.program:q} {params.spots} {params.panel} --genes {output.genes:q}"
        " --options {params.options:q} --log {log:q}"


rule split_donors:
    input:
        counts=lambda w: datasets.counts_files(plan, w.dataset),
        experiments=lambda w: samples.experiment_files(plan, w.dataset),
    output:
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{plan.results}/datasets/{{dataset}}/leakage.tsv",
    log:
        f"{plan.results}/logs/split_donors/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("split_donors"),
        experiments=lambda w: commands.many(
            "--experiments", samples.experiment_files(plan, w.dataset)
        ),
        options=lambda w: options(
            "split_donors",
            dataset=w.dataset,
            split=datasets.split_options(plan, w.dataset),
            samples=datasets.split_facts(plan, w.dataset),
            published=datasets.kept_rows(plan, w.dataset),
        ),
    shell:
        "python {params.program:q} --spots {input.counts:q} {params.experiments} --splits {output.splits:q}"
        " --leakage {output.leakage:q} --options {params.options:q} --log {log:q}"


rule export_pairs:
    input:
        unpack(lambda w: samples.he_on_disk(plan, plan.whole(w.sample))),
        alignment=lambda w: f"{plan.results}/samples/{plan.whole(w.sample)}/alignment.json",
        spots=lambda w: f"{datasets.spots_folder(plan, w.dataset, w.sample)}/spots.zarr",
        genes=f"{plan.results}/datasets/{{dataset}}/genes.tsv",
    output:
        shard=f"{plan.results}/datasets/{{dataset}}/shards/{{sample}}.arrow",
    log:
        f"{plan.results}/logs/export_pairs/{{dataset}}_{{sample}}.log",
    wildcard_constraints:
        dataset=any_of(set(plan.datasets) - set(datasets.imported(plan))),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(15, kspots=0.5),
    params:
        program=script("export_pairs"),
        he=lambda w: commands.flags(
            samples.he_files(plan, plan.whole(w.sample)), "he_image", "he_alignment"
        ),
        options=lambda w: options(
            "export_pairs",
            sample=datasets.pair_facts(plan, w.sample),
            dataset=w.dataset,
            patches=plan.config["patches"][plan.datasets[w.dataset].patches],
            labels=datasets.label_names(plan, w.dataset),
            **datasets.block_options(plan, w.dataset, w.sample),
        ),
    shell:
        "python {params.program:q} --spots {input.spots:q} {params.he} --genes {input.genes:q}"
        " --shard {output.shard:q} --options {params.options:q} --log {log:q}"


rule import_pairs:
    input:
        published=lambda w: datasets.published_files(plan, w.dataset),
        genes=f"{plan.results}/datasets/{{dataset}}/genes.tsv",
    output:
        shard=f"{plan.results}/datasets/{{dataset}}/shards/{{sample}}.arrow",
    log:
        f"{plan.results}/logs/import_pairs/{{dataset}}_{{sample}}.log",
    wildcard_constraints:
        dataset=any_of(datasets.imported(plan)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(15, kspots=0.5),
    params:
        program=script("import_pairs"),
        folder=lambda w: datasets.published_folder(plan, w.dataset),
        options=lambda w: options(
            "import_pairs",
            sample=datasets.import_facts(plan, w.sample),
            dataset=w.dataset,
            labels=datasets.label_names(plan, w.dataset),
        ),
    shell:
        "python {params.program:q} --published-data {params.folder:q} --genes {input.genes:q}"
        " --shard {output.shard:q} --options {params.options:q} --log {log:q}"


rule describe_dataset:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        genes=lambda w: datasets.genes_file(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{plan.results}/datasets/{{dataset}}/leakage.tsv",
    output:
        patch_leakage=f"{plan.results}/datasets/{{dataset}}/patch_leakage.tsv",
        layout=datasets.layout_files(plan, "{dataset}"),
        preview=f"{plan.results}/datasets/{{dataset}}/preview.jpg",
        card=f"{plan.results}/datasets/{{dataset}}/README.md",
    log:
        f"{plan.results}/logs/describe_dataset/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(20, kspots=0.2),
    params:
        program=script("describe_dataset"),
        options=lambda w: options(
            "describe_dataset",
            dataset=w.dataset,
            config_name=w.dataset,
            shared_donors=plan.datasets[w.dataset].split["shared_donors"],
            samples=datasets.card_facts(plan, w.dataset),
            **missing.told(plan, [w.dataset]),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --genes {input.genes:q}"
        " --splits {input.splits:q} --leakage {input.leakage:q}"
        " --patch-leakage {output.patch_leakage:q} --layout {output.layout:q}"
        " --preview {output.preview:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"


rule export_ids:  # asked for by name, for embeddings that another program makes
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
    output:
        ids=f"{plan.results}/datasets/{{dataset}}/ids.tsv",
    log:
        f"{plan.results}/logs/export_ids/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000, kspots=2),
        runtime=grows(20, kspots=0.05),
    params:
        program=script("export_ids"),
        options=lambda w: options("export_ids", dataset=w.dataset),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --ids {output.ids:q} --options {params.options:q} --log {log:q}"


rule index_datasets:
    input:
        cards=[f"{plan.results}/datasets/{dataset}/README.md" for dataset in plan.datasets_in_all],
        # Not read, but named by the cards: results of before they lay here get them, too.
        layout=[f for name in plan.datasets_in_all for f in datasets.layout_files(plan, name)],
        preview=[
            f"{plan.results}/datasets/{dataset}/preview.jpg" for dataset in plan.datasets_in_all
        ],
    output:
        card=f"{plan.results}/datasets/README.md",
    log:
        f"{plan.results}/logs/index_datasets.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("index_datasets"),
        options=options(
            "index_datasets",
            title=plan.config["title"],
            **missing.told(plan, plan.datasets_in_all),
        ),
    shell:
        "python {params.program:q} --cards {input.cards:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"


rule audit_splits:
    input:
        samples=plan.config["samples"],
        fitted_on=plan.config["published_fits"],
    output:
        leakage=[
            f"{plan.results}/audits/splits/{audit['name']}/leakage.tsv" for audit in AUDITED_SPLITS
        ],
        summary=f"{plan.results}/audits/splits/leakage_summary.tsv",
        donor_splits=f"{plan.results}/audits/splits/donor_splits.tsv",
    log:
        f"{plan.results}/logs/audit_splits.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("audit_splits"),
        options=options(
            "audit_splits",
            datasets=AUDITED_SPLITS,
            panels=list(dict.fromkeys(audit["panel"] for audit in AUDITED_SPLITS)),
            seed=plan.config["seed"],
            fractions={"train": 0.7, "val": 0.15, "test": 0.15},
        ),
    shell:
        "python {params.program:q} --samples {input.samples:q} --fitted-on {input.fitted_on:q}"
        " --leakage {output.leakage:q} --summary {output.summary:q}"
        " --donor-splits {output.donor_splits:q} --options {params.options:q} --log {log:q}"


rule push_dataset:
    input:
        card=f"{plan.results}/datasets/README.md",
    output:
        pushed=f"{plan.results}/datasets/pushed.json",
    log:
        f"{plan.results}/logs/push_dataset.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(1440),
    params:
        program=script("push_dataset"),
        options=options(
            "push_dataset",
            repo=plan.config["hub"]["repo"],
            private=plan.config["hub"]["private"],
            samples=datasets.licences(plan),
        ),
    shell:
        "python {params.program:q} --card {input.card:q} --pushed {output.pushed:q}"
        " --options {params.options:q} --log {log:q}"

"""Datasets: which genes, which donor in which split, and the image-gene pairs in Arrow.

IN   <results>/samples/<sample>/<spots>/, the H&E images; or a copy of the published data set
OUT  <results>/datasets/<dataset>/{genes.tsv,splits.tsv,leakage.tsv,patch_leakage.tsv,shards/,data/,
     README.md}, <results>/datasets/README.md
     and when asked for: <results>/audits/splits/, <results>/datasets/pushed.json
"""

LABELS = {
    "name": sorted(SAMPLES),
    "source": sorted({label_source(sample) for sample in SAMPLES}),
    "tissue": sorted({row["organ"].lower() for row in SAMPLES.values()}),
}
IMPORTED = [dataset for dataset in DATASETS if is_imported(dataset)]
AUDITED_SPLITS = audited_splits()
CARD_FACTS = (
    "panel",
    "donor",
    "organ",
    "disease_state",
    "source",
    "license",
    "title",
    "landing_page",
    "preservation",
    "he_um_per_px",
)


rule select_genes:
    input:
        spots=lambda w: spots_of(w.dataset),
        panel=lambda w: f"{config['panels']}/{DATASETS[w.dataset]['panel']}.tsv",
    output:
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
    log:
        f"{RESULTS}/logs/select_genes/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(20),
    params:
        program=script("select_genes"),
        spots=lambda w: many("--spots", spots_of(w.dataset)),
        options=lambda w: options(
            "select_genes",
            dataset=w.dataset,
            panel=DATASETS[w.dataset]["panel"],
            samples=DATASET_SAMPLES[w.dataset],
            min_panel_share=DATASETS[w.dataset]["min_panel_share"],
        ),
    shell:
        "python {params.program:q} {params.spots} --panel {input.panel:q} --genes {output.genes:q}"
        " --options {params.options:q} --log {log:q}"


rule split_donors:
    input:
        counts=lambda w: counts_of(w.dataset),
        experiments=lambda w: experiments_of(w.dataset),
    output:
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{RESULTS}/datasets/{{dataset}}/leakage.tsv",
    log:
        f"{RESULTS}/logs/split_donors/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("split_donors"),
        experiments=lambda w: many("--experiments", experiments_of(w.dataset)),
        options=lambda w: options(
            "split_donors",
            dataset=w.dataset,
            split=split_options(w.dataset),
            samples=[
                facts(sample, "donor", "donor_known", "organ", "disease_state", *LEAK_FACTS)
                for sample in DATASET_SAMPLES[w.dataset]
            ],
            published=split_rows(config, w.dataset),
        ),
    shell:
        "python {params.program:q} --spots {input.counts:q} {params.experiments} --splits {output.splits:q}"
        " --leakage {output.leakage:q} --options {params.options:q} --log {log:q}"


rule export_pairs:
    input:
        unpack(lambda w: on_disk(w.sample, he_files(w.sample))),
        alignment=f"{RESULTS}/samples/{{sample}}/alignment.json",
        spots=lambda w: f"{spots_folder(w.dataset, w.sample)}/spots.zarr",
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
    output:
        shard=f"{RESULTS}/datasets/{{dataset}}/shards/{{sample}}.arrow",
    log:
        f"{RESULTS}/logs/export_pairs/{{dataset}}_{{sample}}.log",
    wildcard_constraints:
        dataset=one_of(set(DATASETS) - set(IMPORTED)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(15, kspots=0.5),
    params:
        program=script("export_pairs"),
        he=lambda w: flags(he_files(w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "export_pairs",
            sample={
                key: value
                for key, value in SAMPLES[w.sample].items()
                if key not in ("notes", "hest_spots", "bundle", "he_layout")
                and not key.endswith(("_status", "_bytes", "_checksum"))
            }
            | {"source": label_source(w.sample)},
            dataset=w.dataset,
            patches=DATASETS[w.dataset] and config["patches"][DATASETS[w.dataset]["patches"]],
            labels=LABELS,
        ),
    shell:
        "python {params.program:q} --spots {input.spots:q} {params.he} --genes {input.genes:q}"
        " --shard {output.shard:q} --options {params.options:q} --log {log:q}"


rule import_pairs:
    input:
        published=lambda w: published_files(w.dataset),
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
    output:
        shard=f"{RESULTS}/datasets/{{dataset}}/shards/{{sample}}.arrow",
    log:
        f"{RESULTS}/logs/import_pairs/{{dataset}}_{{sample}}.log",
    wildcard_constraints:
        dataset=one_of(IMPORTED),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(15, kspots=0.5),
    params:
        program=script("import_pairs"),
        folder=lambda w: DATASETS[w.dataset]["published_data"],
        options=lambda w: options(
            "import_pairs",
            sample=facts(
                w.sample,
                "panel",
                "organ",
                "disease_state",
                "oncotree_code",
                "donor",
                "preservation",
                "he_um_per_px",
            )
            | {"source": label_source(w.sample)},
            dataset=w.dataset,
            labels=LABELS,
        ),
    shell:
        "python {params.program:q} --published-data {params.folder:q} --genes {input.genes:q}"
        " --shard {output.shard:q} --options {params.options:q} --log {log:q}"


rule describe_dataset:
    input:
        shards=lambda w: shards_of(w.dataset),
        genes=lambda w: genes_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{RESULTS}/datasets/{{dataset}}/leakage.tsv",
    output:
        patch_leakage=f"{RESULTS}/datasets/{{dataset}}/patch_leakage.tsv",
        layout=expand(
            f"{RESULTS}/datasets/{{{{dataset}}}}/data/{{{{dataset}}}}{LAYOUT_SUFFIX}/{{split}}.csv",
            split=SPLITS,
        ),
        card=f"{RESULTS}/datasets/{{dataset}}/README.md",
    log:
        f"{RESULTS}/logs/describe_dataset/{{dataset}}.log",
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
            shared_donors=DATASETS[w.dataset]["split"]["shared_donors"],
            samples=[facts(sample, *CARD_FACTS) for sample in DATASET_SAMPLES[w.dataset]],
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --genes {input.genes:q}"
        " --splits {input.splits:q} --leakage {input.leakage:q}"
        " --patch-leakage {output.patch_leakage:q} --layout {output.layout:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"


rule index_datasets:
    input:
        cards=[f"{RESULTS}/datasets/{dataset}/README.md" for dataset in DATASETS_IN_ALL],
    output:
        card=f"{RESULTS}/datasets/README.md",
    log:
        f"{RESULTS}/logs/index_datasets.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("index_datasets"),
        options=options("index_datasets", title=config["title"]),
    shell:
        "python {params.program:q} --cards {input.cards:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"


rule audit_splits:
    input:
        samples=config["samples"],
        fitted_on=config["published_fits"],
    output:
        leakage=[f"{RESULTS}/audits/splits/{audit['name']}/leakage.tsv" for audit in AUDITED_SPLITS],
        summary=f"{RESULTS}/audits/splits/leakage_summary.tsv",
        donor_splits=f"{RESULTS}/audits/splits/donor_splits.tsv",
    log:
        f"{RESULTS}/logs/audit_splits.log",
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
            seed=config["seed"],
            fractions={"train": 0.7, "val": 0.15, "test": 0.15},
        ),
    shell:
        "python {params.program:q} --samples {input.samples:q} --fitted-on {input.fitted_on:q}"
        " --leakage {output.leakage:q} --summary {output.summary:q}"
        " --donor-splits {output.donor_splits:q} --options {params.options:q} --log {log:q}"


rule push_dataset:
    input:
        card=f"{RESULTS}/datasets/README.md",
    output:
        pushed=f"{RESULTS}/datasets/pushed.json",
    log:
        f"{RESULTS}/logs/push_dataset.log",
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
            repo=config["hub"]["repo"],
            private=config["hub"]["private"],
            samples=[
                facts(sample, "license")
                for sample in sorted(set().union(*DATASET_SAMPLES.values()))
            ],
        ),
    shell:
        "python {params.program:q} --card {input.card:q} --pushed {output.pushed:q}"
        " --options {params.options:q} --log {log:q}"

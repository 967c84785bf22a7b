"""Datasets: which genes, which donor in which split, and the image-gene pairs in Arrow.

IN   <results>/samples/<sample>/<spots>/, the H&E images
OUT  <results>/datasets/<dataset>/{genes.tsv,splits.tsv,leakage.tsv,shards/,README.md},
     <results>/datasets/README.md
"""

LABELS = {
    "name": sorted(SAMPLES),
    "source": sorted({row["source"] for row in SAMPLES.values()}),
    "tissue": sorted({row["organ"] for row in SAMPLES.values()}),
}


rule select_genes:
    input:
        spots=lambda w: of_samples(w.dataset, "{spots}/spots.zarr"),
    output:
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
    log:
        f"{RESULTS}/logs/select_genes/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        program=script("select_genes"),
        options=lambda w: options(
            "select_genes",
            dataset=w.dataset,
            panel=DATASETS[w.dataset]["panel"],
            samples=DATASET_SAMPLES[w.dataset],
        ),
    shell:
        "python {params.program:q} --spots {input.spots:q} --genes {output.genes:q}"
        " --options {params.options:q} --log {log:q}"


rule split_donors:
    input:
        audits=lambda w: of_samples(w.dataset, "{spots}/audit.json"),
    output:
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{RESULTS}/datasets/{{dataset}}/leakage.tsv",
    log:
        f"{RESULTS}/logs/split_donors/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        program=script("split_donors"),
        options=lambda w: options(
            "split_donors",
            dataset=w.dataset,
            split=split_options(w.dataset),
            samples=[
                facts(sample, "donor", "donor_known", "organ", "disease_state")
                for sample in DATASET_SAMPLES[w.dataset]
            ],
            published=(
                published_rows(config, DATASETS[w.dataset]["panel"])
                if DATASETS[w.dataset]["split"]["method"] == "published"
                else []
            ),
        ),
    shell:
        "python {params.program:q} --spots {input.audits:q} --splits {output.splits:q}"
        " --leakage {output.leakage:q} --options {params.options:q} --log {log:q}"


rule export_pairs:
    input:
        unpack(lambda w: he_files(w.sample)),
        spots=lambda w: f"{spots_folder(w.dataset, w.sample)}/spots.zarr",
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
    output:
        shard=f"{RESULTS}/datasets/{{dataset}}/shards/{{sample}}.arrow",
    log:
        f"{RESULTS}/logs/export_pairs/{{dataset}}_{{sample}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        program=script("export_pairs"),
        he=lambda w: flags(he_files(w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "export_pairs",
            sample={
                key: value
                for key, value in SAMPLES[w.sample].items()
                if key not in ("notes", "hest_spots", "bundle") and not key.endswith("_status")
            },
            dataset=w.dataset,
            patches=DATASETS[w.dataset] and config["patches"][DATASETS[w.dataset]["patches"]],
            labels=LABELS,
        ),
    shell:
        "python {params.program:q} --spots {input.spots:q} {params.he} --genes {input.genes:q}"
        " --shard {output.shard:q} --options {params.options:q} --log {log:q}"


rule describe_dataset:
    input:
        shards=lambda w: of_samples(w.dataset, "{results}/datasets/{dataset}/shards/{sample}.arrow"),
        genes=f"{RESULTS}/datasets/{{dataset}}/genes.tsv",
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        leakage=f"{RESULTS}/datasets/{{dataset}}/leakage.tsv",
    output:
        card=f"{RESULTS}/datasets/{{dataset}}/README.md",
    log:
        f"{RESULTS}/logs/describe_dataset/{{dataset}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        program=script("describe_dataset"),
        options=lambda w: options(
            "describe_dataset",
            dataset=w.dataset,
            config_name=w.dataset,
            samples=[
                facts(sample, "donor", "organ", "disease_state", "source", "license", "title")
                for sample in DATASET_SAMPLES[w.dataset]
            ],
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --genes {input.genes:q}"
        " --splits {input.splits:q} --leakage {input.leakage:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"


rule index_datasets:
    input:
        cards=[f"{RESULTS}/datasets/{dataset}/README.md" for dataset in DATASETS],
    output:
        card=f"{RESULTS}/datasets/README.md",
    log:
        f"{RESULTS}/logs/index_datasets.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        program=script("index_datasets"),
        options=options("index_datasets", title=config["title"]),
    shell:
        "python {params.program:q} --cards {input.cards:q} --card {output.card:q}"
        " --options {params.options:q} --log {log:q}"

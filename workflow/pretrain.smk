"""Pretrain: frozen encoders once, then image-gene pairs trained contrastively.

IN   <results>/datasets/<dataset>/
OUT  <results>/datasets/<dataset>/encoders/<gene>/,
     <results>/datasets/<dataset>/embeddings/{images,genes}/<encoder>/,
     <results>/runs/<experiment>/<dataset>/<image>-<gene>/seed<k>/
"""


rule fit_gene_encoder:
    input:
        shards=lambda w: shards_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: genes_of(w.dataset),
    output:
        encoder=f"{FITTED}/encoder.pt",
        fit=f"{FITTED}/fit.json",
        history=f"{FITTED}/history.csv",
        curve=f"{FITTED}/curve.png",
    log:
        f"{RESULTS}/logs/fit_gene_encoder/{{dataset}}_{{gene}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(720, kspots=1),
        gpu=1,
    params:
        program=script("fit_gene_encoder"),
        options=lambda w: options(
            "fit_gene_encoder",
            encoder=ENCODERS["gene"][w.gene],
            encoder_name=w.gene,
            dataset=w.dataset,
            samples=DATASET_SAMPLES[w.dataset],
            seed=config["seed"],
            **leaked_in_published_fit(w),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --encoder {output.encoder:q} --fit {output.fit:q}"
        " --history {output.history:q} --curve {output.curve:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule embed_genes:
    input:
        shards=lambda w: shards_of(w.dataset),
        splits=splits_for,
        genes=lambda w: genes_of(w.dataset),
        weights=gene_weights,
    output:
        features=f"{GENE_FEATURES}/features.npy",
        index=f"{GENE_FEATURES}/features.json",
    log:
        f"{RESULTS}/logs/embed_genes/{{dataset}}_{{gene}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(240, kspots=1),
        gpu=1,
    params:
        program=script("embed_genes"),
        splits=lambda w: many("--splits", splits_for(w)),
        weights=lambda w: first_flag("--weights", gene_weights(w)),
        options=lambda w: options(
            "embed_genes",
            encoder=ENCODERS["gene"][w.gene],
            encoder_name=w.gene,
            dataset=w.dataset,
            samples=DATASET_SAMPLES[w.dataset],
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} {params.splits}"
        " --genes {input.genes:q} {params.weights}"
        " --features {output.features:q} --index {output.index:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule embed_images:
    input:
        shards=lambda w: shards_of(w.dataset),
        weights=lambda w: weights_of("image", w.image),
    output:
        features=f"{FEATURES}/features.npy",
        index=f"{FEATURES}/features.json",
    log:
        f"{RESULTS}/logs/embed_images/{{dataset}}_{{image}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(8000),
        runtime=grows(240, kspots=0.5),
        gpu=1,
    params:
        program=script("embed_images"),
        weights=lambda w: first_flag("--weights", weights_of("image", w.image)),
        options=lambda w: options(
            "embed_images",
            encoder=ENCODERS["image"][w.image],
            encoder_name=w.image,
            dataset=w.dataset,
            samples=DATASET_SAMPLES[w.dataset],
            **views_of(w.dataset, w.image),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} {params.weights}"
        " --features {output.features:q}"
        " --index {output.index:q} --threads {threads} --options {params.options:q} --log {log:q}"


rule pretrain:
    input:
        unpack(frozen_features),
        unpack(run_weights),
        shards=lambda w: shards_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: genes_of(w.dataset),
    output:
        model=f"{RUN}/model.ckpt",
        run_options=f"{RUN}/options.json",
        metrics=f"{RUN}/metrics.csv",
        curve=f"{RUN}/curve.png",
        embeddings=multiext(f"{RUN}/embeddings/test", ".json", ".tsv", "_images.npy", "_genes.npy"),
    log:
        f"{RUN}/pretrain.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(16000, kspots=20),
        runtime=1440,  # a second attempt goes on where the first was stopped
        gpu=devices_of,
    params:
        program=script("pretrain"),
        features=lambda w: flags(
            frozen_features(w), "image_features", "image_index", "gene_features", "gene_index"
        ),
        image_weights=lambda w: first_flag("--image-weights", run_weights(w)["image_weights"]),
        gene_weights=lambda w: first_flag("--gene-weights", run_weights(w)["gene_weights"]),
        options=lambda w: options(
            "pretrain",
            experiment=w.experiment,
            dataset=w.dataset,
            image_name=w.image,
            gene_name=w.gene,
            image_encoder=ENCODERS["image"][w.image],
            gene_encoder=ENCODERS["gene"][w.gene],
            seed=int(w.seed),
            training=EXPERIMENTS[w.experiment]["training"],
            samples=DATASET_SAMPLES[w.dataset],
            protocol=EXPERIMENTS[w.experiment]["protocol"],
            flags=[flag for flag, on in EXPERIMENTS[w.experiment]["flags"].items() if on],
            embed_train=predicts_expression(w.experiment),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} {params.features} {params.image_weights} {params.gene_weights}"
        " --model {output.model:q} --run-options {output.run_options:q} --metrics {output.metrics:q} --curve {output.curve:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"

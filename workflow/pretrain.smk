"""Pretrain: frozen encoders once, then image-gene pairs trained contrastively.

IN   <results>/datasets/<dataset>/
OUT  <results>/datasets/<dataset>/embeddings/images/<encoder>/,
     <results>/runs/<experiment>/<dataset>/<image>-<gene>/seed<k>/
"""


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
        mem_mb=8000,
        runtime=240,
    params:
        program=script("embed_images"),
        weights=lambda w: " ".join(f"--weights '{file}'" for file in weights_of("image", w.image)),
        options=lambda w: options(
            "embed_images",
            encoder=ENCODERS["image"][w.image],
            encoder_name=w.image,
            dataset=w.dataset,
            samples=DATASET_SAMPLES[w.dataset],
            batch=16,
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} {params.weights}"
        " --features {output.features:q}"
        " --index {output.index:q} --threads {threads} --options {params.options:q} --log {log:q}"


rule pretrain:
    input:
        unpack(frozen_features),
        shards=lambda w: shards_of(w.dataset),
        splits=f"{RESULTS}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: genes_of(w.dataset),
        weights=lambda w: weights_of("image", w.image) + weights_of("gene", w.gene),
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
        mem_mb=16000,
        runtime=1440,
    params:
        program=script("pretrain"),
        features=lambda w: flags(frozen_features(w), "features", "features_index"),
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
            protocol=config["protocol"],
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} {params.features} --model {output.model:q}"
        " --run-options {output.run_options:q} --metrics {output.metrics:q} --curve {output.curve:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"

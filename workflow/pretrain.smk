"""Pretrain: frozen encoders once, then image-gene pairs trained contrastively.

IN   <results>/datasets/<dataset>/
OUT  <results>/datasets/<dataset>/encoders/<gene>/,
     <results>/datasets/<dataset>/embeddings/{images,genes}/<encoder>/,
     <results>/runs/<experiment>/<dataset>/<image>-<gene>/seed<k>/
"""


rule fit_gene_encoder:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: datasets.genes_file(plan, w.dataset),
    output:
        encoder=f"{plan.fitted_encoder}/encoder.pt",
        fit=f"{plan.fitted_encoder}/fit.json",
        history=f"{plan.fitted_encoder}/history.csv",
        curve=f"{plan.fitted_encoder}/curve.png",
    log:
        f"{plan.results}/logs/fit_gene_encoder/{{dataset}}_{{gene}}.log",
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
            encoder=plan.encoder("gene", w.gene),
            encoder_name=w.gene,
            dataset=w.dataset,
            samples=plan.datasets[w.dataset].samples,
            seed=plan.config["seed"],
            **runs.leaked_in_published_fit(plan, w.dataset, w.gene),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} --encoder {output.encoder:q} --fit {output.fit:q}"
        " --history {output.history:q} --curve {output.curve:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule embed_genes:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=lambda w: runs.splits_for(plan, w.dataset, w.gene),
        genes=lambda w: datasets.genes_file(plan, w.dataset),
        weights=lambda w: runs.gene_weights(plan, w.dataset, w.gene),
    output:
        features=f"{plan.gene_features}/features.npy",
        index=f"{plan.gene_features}/features.json",
    log:
        f"{plan.results}/logs/embed_genes/{{dataset}}_{{gene}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(16000, kspots=60),
        runtime=grows(240, kspots=1),
        gpu=1,
    params:
        program=script("embed_genes"),
        splits=lambda w: commands.many("--splits", runs.splits_for(plan, w.dataset, w.gene)),
        weights=lambda w: commands.first_flag(
            "--weights", runs.gene_weights(plan, w.dataset, w.gene)
        ),
        options=lambda w: options(
            "embed_genes",
            encoder=plan.encoder("gene", w.gene),
            encoder_name=w.gene,
            dataset=w.dataset,
            samples=plan.datasets[w.dataset].samples,
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} {params.splits}"
        " --genes {input.genes:q} {params.weights}"
        " --features {output.features:q} --index {output.index:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"


rule embed_images:
    input:
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        weights=lambda w: runs.weight_files(plan, "image", w.image),
    output:
        features=f"{plan.image_features}/features.npy",
        index=f"{plan.image_features}/features.json",
    log:
        f"{plan.results}/logs/embed_images/{{dataset}}_{{image}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=grows(8000),
        runtime=grows(240, kspots=0.5),
        gpu=1,
    params:
        program=script("embed_images"),
        weights=lambda w: commands.first_flag(
            "--weights", runs.weight_files(plan, "image", w.image)
        ),
        options=lambda w: options(
            "embed_images",
            encoder=plan.encoder("image", w.image),
            encoder_name=w.image,
            dataset=w.dataset,
            samples=plan.datasets[w.dataset].samples,
            **asked(runs.views_of, w.dataset, w.image),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} {params.weights}"
        " --features {output.features:q}"
        " --index {output.index:q} --threads {threads} --options {params.options:q} --log {log:q}"


rule pretrain:
    input:
        unpack(lambda w: runs.frozen_features(plan, w)),
        unpack(lambda w: runs.run_weights(plan, w)),
        shards=lambda w: datasets.shard_files(plan, w.dataset),
        splits=f"{plan.results}/datasets/{{dataset}}/splits.tsv",
        genes=lambda w: datasets.genes_file(plan, w.dataset),
    output:
        model=f"{plan.run}/model.ckpt",
        run_options=f"{plan.run}/options.json",
        metrics=f"{plan.run}/metrics.csv",
        curve=f"{plan.run}/curve.png",
        embeddings=multiext(
            f"{plan.run}/embeddings/test", ".json", ".tsv", "_images.npy", "_genes.npy"
        ),
    log:
        f"{plan.run}/pretrain.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: costs.training_mb(plan, w, attempt),
        runtime=1440,  # a second attempt goes on where the first was stopped
        gpu=lambda w: runs.devices(plan, w.experiment),
    params:
        program=script("pretrain"),
        # Where and how fast: a parameter that asks for resources decides about no rerun.
        machine=lambda w, resources: runs.machine_training(plan, w.experiment),
        features=lambda w: commands.flags(
            runs.frozen_features(plan, w),
            "image_features",
            "image_index",
            "gene_features",
            "gene_index",
        ),
        image_weights=lambda w: commands.first_flag(
            "--image-weights", runs.run_weights(plan, w)["image_weights"]
        ),
        gene_weights=lambda w: commands.first_flag(
            "--gene-weights", runs.run_weights(plan, w)["gene_weights"]
        ),
        options=lambda w: options(
            "pretrain",
            experiment=w.experiment,
            dataset=w.dataset,
            image_name=w.image,
            gene_name=w.gene,
            image_encoder=plan.encoder("image", w.image),
            gene_encoder=plan.encoder("gene", w.gene),
            seed=int(w.seed),
            training=runs.deciding_training(plan, w.experiment),
            samples=plan.datasets[w.dataset].samples,
            protocol=plan.experiments[w.experiment].protocol,
            flags=[flag for flag, on in plan.experiments[w.experiment].flags.items() if on],
            embed_train=runs.predicts_expression(plan, w.experiment),
        ),
    shell:
        "python {params.program:q} --shards {input.shards:q} --splits {input.splits:q}"
        " --genes {input.genes:q} {params.features} {params.image_weights} {params.gene_weights}"
        " --machine {params.machine:q}"
        " --model {output.model:q} --run-options {output.run_options:q} --metrics {output.metrics:q} --curve {output.curve:q}"
        " --threads {threads} --options {params.options:q} --log {log:q}"

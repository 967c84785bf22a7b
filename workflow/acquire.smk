"""Acquire: raw bundles, encoder weights, and a check of each bundle before anything long starts.

IN   the sample table, the encoder files
OUT  <bundles>/<sample>/, <weights>/<kind>/<encoder>/, <hosted.folder>/<panel>/, <results>/samples/<sample>/check.json
"""

# Through the environment, not the parameters: where a bundle comes from changes nothing in it, so
# other mirrors or a folder of downloads fetch nothing anew.
os.environ.update(
    PAIRSCAPE_MIRRORS=json.dumps(plan.config["mirrors"]),
    PAIRSCAPE_DOWNLOADS=plan.config["downloads"] or "",
)


rule simulate_bundle:
    input:
        panel=lambda w: f"{plan.config['panels']}/{plan.samples[w.sample]['panel']}.tsv",
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.parquet",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{plan.bundles}/{{sample}}/{{sample}}_he_imagealignment.csv",
    log:
        f"{plan.results}/logs/simulate_bundle/{{sample}}.log",
    wildcard_constraints:
        sample=any_of(samples.simulated_with(plan, parquet=True)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30),
    params:
        program=script("simulate_bundle"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        options=lambda w: options(
            "simulate_bundle",
            sample=plan.facts(w.sample, "donor", "panel", "organ"),
            seed=plan.config["seed"],
            simulation=plan.config["simulations"][plan.samples[w.sample]["simulation"]],
        ),
    shell:
        "python {params.program:q} --panel {input.panel:q} --bundle {params.bundle:q}"
        " --options {params.options:q} --log {log:q}"


# Layouts without transcripts.parquet.
use rule simulate_bundle as simulate_bundle_csv with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.csv.gz",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{plan.bundles}/{{sample}}/{{sample}}_he_imagealignment.csv",
    wildcard_constraints:
        sample=any_of(samples.simulated_with(plan, parquet=False)),


rule fetch_bundle:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.parquet",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{plan.bundles}/{{sample}}/{{sample}}_he_imagealignment.csv",
    log:
        f"{plan.results}/logs/fetch_bundle/{{sample}}.log",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, "he_image", "he_alignment", parquet=True)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(240, gb=10),
    params:
        program=script("fetch_bundle"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        archive=lambda w: commands.flags(samples.archive_file(plan, w.sample), "archive"),
        options=lambda w: options(
            "fetch_bundle", sample=plan.facts(w.sample, *samples.SOURCE_FACTS)
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.archive}"
        ' --mirrors "$PAIRSCAPE_MIRRORS" --downloads "$PAIRSCAPE_DOWNLOADS"'
        " --options {params.options:q} --log {log:q}"


# Samples without H&E.
use rule fetch_bundle as fetch_bundle_alone with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.parquet",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, parquet=True)),


# Samples whose H&E lies on a known grid, or is registered, have no alignment file to fetch.
use rule fetch_bundle as fetch_bundle_registered with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.parquet",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, "he_image", parquet=True)),


# The same of files by hand that hold no transcripts.parquet: those of GEO.
use rule fetch_bundle as fetch_bundle_csv with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.csv.gz",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{plan.bundles}/{{sample}}/{{sample}}_he_imagealignment.csv",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, "he_image", "he_alignment", parquet=False)),


use rule fetch_bundle as fetch_bundle_alone_csv with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.csv.gz",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, parquet=False)),


use rule fetch_bundle as fetch_bundle_registered_csv with:
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
        transcripts=f"{plan.bundles}/{{sample}}/transcripts.csv.gz",
        he_image=f"{plan.bundles}/{{sample}}/{{sample}}_he_image.ome.tif",
    wildcard_constraints:
        sample=any_of(samples.fetched_with(plan, "he_image", parquet=False)),


# A published zip that the user has is unpacked; what it lacks is told by check_bundle.
use rule fetch_bundle as fetch_bundle_unpacked with:
    input:
        unpack(lambda w: samples.on_disk(plan, w.sample, samples.archive_file(plan, w.sample))),
    output:
        experiment=f"{plan.bundles}/{{sample}}/experiment.xenium",
    wildcard_constraints:
        sample=any_of(name for name in plan.samples if samples.is_packed(plan, name)),


# An H&E that can't be read piece by piece is written anew, once.
rule retile_image:
    input:
        unpack(
            lambda w: samples.on_disk(
                plan, w.sample, {"he_image": samples.he_as_given(plan, w.sample)["he_image"]}
            )
        ),
        check=f"{plan.results}/samples/{{sample}}/check.json",
    output:
        f"{plan.results}/samples/{{sample}}/he_tiled.ome.tif",
    log:
        f"{plan.results}/logs/retile_image/{{sample}}.log",
    wildcard_constraints:
        sample=any_of(name for name in plan.samples if samples.is_untiled(plan, name)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(60, gb=10),
    params:
        program=script("retile_image"),
        he=lambda w: commands.flags(samples.he_as_given(plan, w.sample), "he_image"),
        options=options("retile_image"),
    shell:
        "python {params.program:q} {params.he} --tiled {output:q}"
        " --options {params.options:q} --log {log:q}"


# A panel of the released data set, where a dataset is imported from it and not from a copy of yours.
rule fetch_hosted:
    output:
        receipt=datasets.hosted_folder(plan, "{panel}") + ".json",
    log:
        f"{plan.results}/logs/fetch_hosted/{{panel}}.log",
    wildcard_constraints:
        panel=any_of(datasets.hosted_panels(plan)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(720),
    params:
        program=script("fetch_hosted"),
        folder=lambda w: datasets.hosted_folder(plan, w.panel),
        options=lambda w: options(
            "fetch_hosted",
            panel=w.panel,
            **{key: plan.config["hosted"][key] for key in ("repo", "revision")},
        ),
    shell:
        "python {params.program:q} --folder {params.folder:q} --receipt {output.receipt:q}"
        " --options {params.options:q} --log {log:q}"


rule fetch_weights:
    output:
        weights=update(f"{plan.weights}/{{kind}}/{{name}}/{{file}}"),  # a file you put there is checked and kept
        source=update(f"{plan.weights}/{{kind}}/{{name}}/{{file}}.source.json"),
    log:
        f"{plan.results}/logs/fetch_weights/{{kind}}_{{name}}_{{file}}.log",
    wildcard_constraints:
        name="[a-z0-9_]+",
        file=r"[^/]+(?<!\.source\.json)",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(240),
    params:
        program=script("fetch_weights"),
        options=lambda w: options(
            "fetch_weights", kind=w.kind, name=w.name, encoder=plan.encoder(w.kind, w.name)
        ),
    shell:
        "python {params.program:q} --weights {output.weights:q} --source {output.source:q}"
        " --options {params.options:q} --log {log:q}"


rule check_sources:  # what can be had from here, of all that is fetched; asked anew each time
    log:
        f"{plan.results}/logs/check_sources.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(30),
    params:
        program=script("check_sources"),
        table=f"{plan.results}/{sources.CHECKED}",
        options=lambda w: options(
            "check_sources", files=sources.files(plan), mirrors=plan.config["mirrors"]
        ),
    shell:
        "python {params.program:q} --table {params.table:q}"
        " --options {params.options:q} --log {log:q}"


rule preflight:  # what the configuration lacks, a line each, before anything is submitted
    log:
        f"{plan.results}/logs/preflight.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(1000),
        runtime=grows(10),
    params:
        program=script("preflight"),
        options=lambda w: options(
            "preflight",
            lacks=lacks.all_lacks(plan),
            here=bool(plan.in_all) and not queued_rules(),
            rules=queued_rules(),
        ),
    shell:
        "python {params.program:q} --options {params.options:q} --log {log:q}"


rule check_bundle:
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample, samples.he_as_given)),
    output:
        f"{plan.results}/samples/{{sample}}/check.json",
    log:
        f"{plan.results}/logs/check_bundle/{{sample}}.log",
    priority: 1
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30, gb=2),
    params:
        program=script("check_bundle"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.he_as_given(plan, w.sample), "he_image", "he_alignment"),
        panel=lambda w: commands.flags(samples.panel_file(plan, w.sample), "panel"),
        options=lambda w: options(
            "check_bundle",
            sample=plan.facts(
                w.sample, "panel", "he_image", "he_alignment", "he_um_per_px", "he_layout"
            ),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} {params.panel}"
        " --report {output:q} --options {params.options:q} --log {log:q}"

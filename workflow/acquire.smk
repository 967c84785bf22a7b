"""Acquire: raw bundles, encoder weights, and a check of each bundle before anything long starts.

IN   the sample table, the encoder files
OUT  <bundles>/<sample>/, <weights>/<kind>/<encoder>/, <results>/samples/<sample>/check.json
"""

SIMULATED = [name for name, row in SAMPLES.items() if row["source"] == "simulated"]
FETCHED = [
    name for name, row in SAMPLES.items() if row["source"] in ("10x", "geo") and not row["bundle"]
]
# Through the environment, not the parameters: where a bundle comes from changes nothing in it, so
# other mirrors or a folder of downloads fetch nothing anew.
os.environ.update(
    PAIRSCAPE_MIRRORS=json.dumps(config["mirrors"]), PAIRSCAPE_DOWNLOADS=config["downloads"] or ""
)


rule simulate_bundle:
    input:
        panel=lambda w: f"{config['panels']}/{SAMPLES[w.sample]['panel']}.tsv",
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
        transcripts=f"{BUNDLES}/{{sample}}/transcripts.parquet",
        he_image=f"{BUNDLES}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{BUNDLES}/{{sample}}/{{sample}}_he_imagealignment.csv",
    log:
        f"{RESULTS}/logs/simulate_bundle/{{sample}}.log",
    wildcard_constraints:
        sample=one_of(name for name in SIMULATED if simulated_transcripts(name) == TRANSCRIPTS[0]),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30),
    params:
        program=script("simulate_bundle"),
        bundle=lambda w: bundle_folder(w.sample),
        options=lambda w: options(
            "simulate_bundle",
            sample=facts(w.sample, "donor", "panel", "organ"),
            seed=config["seed"],
            simulation=config["simulations"][SAMPLES[w.sample]["simulation"]],
        ),
    shell:
        "python {params.program:q} --panel {input.panel:q} --bundle {params.bundle:q}"
        " --options {params.options:q} --log {log:q}"


# Layouts without transcripts.parquet.
use rule simulate_bundle as simulate_bundle_csv with:
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
        transcripts=f"{BUNDLES}/{{sample}}/transcripts.csv.gz",
        he_image=f"{BUNDLES}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{BUNDLES}/{{sample}}/{{sample}}_he_imagealignment.csv",
    wildcard_constraints:
        sample=one_of(name for name in SIMULATED if simulated_transcripts(name) != TRANSCRIPTS[0]),


rule fetch_bundle:
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
        transcripts=f"{BUNDLES}/{{sample}}/transcripts.parquet",
        he_image=f"{BUNDLES}/{{sample}}/{{sample}}_he_image.ome.tif",
        he_alignment=f"{BUNDLES}/{{sample}}/{{sample}}_he_imagealignment.csv",
    log:
        f"{RESULTS}/logs/fetch_bundle/{{sample}}.log",
    wildcard_constraints:
        sample=one_of(name for name in FETCHED if "he_alignment" in he_files(name)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(240, gb=10),
    params:
        program=script("fetch_bundle"),
        bundle=lambda w: bundle_folder(w.sample),
        archive=lambda w: flags(archive_file(w.sample), "archive"),
        options=lambda w: options("fetch_bundle", sample=source_facts(w.sample)),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.archive}"
        ' --mirrors "$PAIRSCAPE_MIRRORS" --downloads "$PAIRSCAPE_DOWNLOADS"'
        " --options {params.options:q} --log {log:q}"


# Samples without H&E.
use rule fetch_bundle as fetch_bundle_alone with:
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
        transcripts=f"{BUNDLES}/{{sample}}/transcripts.parquet",
    wildcard_constraints:
        sample=one_of(name for name in FETCHED if "he_image" not in he_files(name)),


# Samples whose H&E lies on a known grid have no alignment file to fetch.
use rule fetch_bundle as fetch_bundle_registered with:
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
        transcripts=f"{BUNDLES}/{{sample}}/transcripts.parquet",
        he_image=f"{BUNDLES}/{{sample}}/{{sample}}_he_image.ome.tif",
    wildcard_constraints:
        sample=one_of(name for name in FETCHED if list(he_files(name)) == ["he_image"]),


# A published zip that the user has is unpacked; what it lacks is told by check_bundle.
use rule fetch_bundle as fetch_bundle_unpacked with:
    input:
        unpack(lambda w: on_disk(w.sample, archive_file(w.sample))),
    output:
        experiment=f"{BUNDLES}/{{sample}}/experiment.xenium",
    wildcard_constraints:
        sample=one_of(name for name in SAMPLES if is_packed(name)),


# An H&E that can't be read piece by piece is written anew, once.
rule retile_image:
    input:
        unpack(lambda w: on_disk(w.sample, {"he_image": he_as_given(w.sample)["he_image"]})),
        check=f"{RESULTS}/samples/{{sample}}/check.json",
    output:
        f"{RESULTS}/samples/{{sample}}/he_tiled.ome.tif",
    log:
        f"{RESULTS}/logs/retile_image/{{sample}}.log",
    wildcard_constraints:
        sample=one_of(name for name in SAMPLES if is_untiled(name)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(60, gb=10),
    params:
        program=script("retile_image"),
        he=lambda w: flags(he_as_given(w.sample), "he_image"),
        options=options("retile_image"),
    shell:
        "python {params.program:q} {params.he} --tiled {output:q}"
        " --options {params.options:q} --log {log:q}"


rule fetch_weights:
    output:
        weights=update(f"{WEIGHTS}/{{kind}}/{{name}}/{{file}}"),  # a file you put there is checked and kept
        source=update(f"{WEIGHTS}/{{kind}}/{{name}}/{{file}}.source.json"),
    log:
        f"{RESULTS}/logs/fetch_weights/{{kind}}_{{name}}_{{file}}.log",
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
            "fetch_weights", kind=w.kind, name=w.name, encoder=ENCODERS[w.kind][w.name]
        ),
    shell:
        "python {params.program:q} --weights {output.weights:q} --source {output.source:q}"
        " --options {params.options:q} --log {log:q}"


rule check_bundle:
    input:
        unpack(lambda w: on_disk(w.sample, bundle_files(w.sample) | he_as_given(w.sample))),
    output:
        f"{RESULTS}/samples/{{sample}}/check.json",
    log:
        f"{RESULTS}/logs/check_bundle/{{sample}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30, gb=2),
    params:
        program=script("check_bundle"),
        bundle=lambda w: bundle_folder(w.sample),
        he=lambda w: flags(he_as_given(w.sample), "he_image", "he_alignment"),
        panel=lambda w: flags(panel_file(w.sample), "panel"),
        options=lambda w: options(
            "check_bundle",
            sample=facts(
                w.sample, "panel", "he_image", "he_alignment", "he_um_per_px", "he_layout"
            ),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} {params.panel}"
        " --report {output:q} --options {params.options:q} --log {log:q}"

"""Spots: is the H&E where its alignment says, and transcripts pooled with an audit that adds up.

IN   <bundles>/<sample>/, <results>/samples/<sample>/check.json
OUT  <results>/samples/<sample>/{he_registered.csv,registration.json,registration.png},
     <results>/samples/<sample>/{alignment.json,overlay.png},
     <results>/samples/<sample>/<spots>/{spots.zarr,audit.json,qc.tsv,qc.png,sample.zarr}
"""


rule register_image:  # an H&E that came without an alignment
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample, samples.tiled_files)),
        check=f"{plan.results}/samples/{{sample}}/check.json",
    output:
        matrix=f"{plan.results}/samples/{{sample}}/he_registered.csv",
        report=f"{plan.results}/samples/{{sample}}/registration.json",
        figure=f"{plan.results}/samples/{{sample}}/registration.png",
    log:
        f"{plan.results}/logs/register_image/{{sample}}.log",
    wildcard_constraints:
        sample=any_of(name for name in plan.samples if samples.is_registered(plan, name)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(8000),
        runtime=grows(60, gb=1),
    params:
        program=script("register_image"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.tiled_files(plan, w.sample), "he_image"),
        options=lambda w: options(
            "register_image",
            sample=plan.facts(w.sample, "he_um_per_px"),
            seed=plan.config["seed"],
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --matrix {output.matrix:q}"
        " --report {output.report:q} --figure {output.figure:q}"
        " --options {params.options:q} --log {log:q}"


rule check_alignment:
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample)),
        check=f"{plan.results}/samples/{{sample}}/check.json",
    output:
        report=f"{plan.results}/samples/{{sample}}/alignment.json",
        overlay=shown(f"{plan.results}/samples/{{sample}}/overlay.png", "alignment"),
    log:
        f"{plan.results}/logs/check_alignment/{{sample}}.log",
    wildcard_constraints:
        sample=any_of(name for name in plan.samples if samples.he_files(plan, name)),
    priority: 1
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30, gb=1),
    params:
        program=script("check_alignment"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.he_files(plan, w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "check_alignment",
            sample=plan.facts(w.sample, "he_alignment", "he_um_per_px"),
            trusted=w.sample in plan.config["alignment"]["trusted"],
            seed=plan.config["seed"],
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --report {output.report:q}"
        " --overlay {output.overlay:q} --options {params.options:q} --log {log:q}"


rule pool_spots:
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample)),
        check=f"{plan.results}/samples/{{sample}}/check.json",
        centres=lambda w: samples.centres_of(plan, w.sample, w.spots),
    output:
        spots=directory(f"{plan.results}/samples/{{sample}}/{{spots}}/spots.zarr"),
        audit=f"{plan.results}/samples/{{sample}}/{{spots}}/audit.json",
        table=f"{plan.results}/samples/{{sample}}/{{spots}}/qc.tsv",
    log:
        f"{plan.results}/logs/pool_spots/{{sample}}_{{spots}}.log",
    priority: 1  # one sample to its pictures before the next one: what is wrong is seen early
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000, kspots=60),
        runtime=grows(30, gb=2),
    params:
        program=script("pool_spots"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.he_files(plan, w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "pool_spots",
            sample=plan.facts(w.sample, "panel", "he_image", "he_alignment", "he_um_per_px"),
            spots_name=w.spots,
            spots=samples.preset_of(plan, w.sample, w.spots),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --spots {output.spots:q}"
        " --audit {output.audit:q} --table {output.table:q}"
        " --options {params.options:q} --log {log:q}"


rule show_spots:
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample)),
        spots=rules.pool_spots.output.spots,
        table=rules.pool_spots.output.table,
    output:
        figure=shown(f"{plan.results}/samples/{{sample}}/{{spots}}/qc.png", "spots"),
    log:
        f"{plan.results}/logs/show_spots/{{sample}}_{{spots}}.log",
    priority: 1
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000, kspots=60),
        runtime=grows(30, gb=1),
    params:
        program=script("show_spots"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.he_files(plan, w.sample), "he_image"),
        options=lambda w: options(
            "show_spots",
            sample=plan.facts(w.sample),
            spots_name=w.spots,
            overlay_gene=samples.overlay_gene(plan, w.sample),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --spots {input.spots:q}"
        " --table {input.table:q} --figure {output.figure:q}"
        " --options {params.options:q} --log {log:q}"


rule write_spatialdata:  # the spots with the H&E and the cells, for other programs; nothing goes on from it
    input:
        unpack(lambda w: samples.bundle_inputs(plan, w.sample)),
        spots=rules.pool_spots.output.spots,
    output:
        spatialdata=directory(f"{plan.results}/samples/{{sample}}/{{spots}}/sample.zarr"),
    log:
        f"{plan.results}/logs/write_spatialdata/{{sample}}_{{spots}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000, kspots=60),
        runtime=grows(30, gb=5),
    params:
        program=script("write_spatialdata"),
        bundle=lambda w: samples.bundle_folder(plan, w.sample),
        he=lambda w: commands.flags(samples.he_files(plan, w.sample), "he_image"),
        options=lambda w: options(
            "write_spatialdata", sample=w.sample, he=plan.config["spatialdata_he"]
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --spots {input.spots:q}"
        " --spatialdata {output.spatialdata:q} --options {params.options:q} --log {log:q}"

"""Spots: is the H&E where its alignment says, and transcripts pooled with an audit that adds up.

IN   <bundles>/<sample>/, <results>/samples/<sample>/check.json
OUT  <results>/samples/<sample>/{alignment.json,overlay.png},
     <results>/samples/<sample>/<spots>/{spots.zarr,audit.json,qc.tsv,qc.png}
"""


rule check_alignment:
    input:
        unpack(lambda w: on_disk(w.sample, bundle_files(w.sample))),
        check=f"{RESULTS}/samples/{{sample}}/check.json",
    output:
        report=f"{RESULTS}/samples/{{sample}}/alignment.json",
        overlay=f"{RESULTS}/samples/{{sample}}/overlay.png",
    log:
        f"{RESULTS}/logs/check_alignment/{{sample}}.log",
    wildcard_constraints:
        sample=one_of(name for name in SAMPLES if he_files(name)),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(30, gb=1),
    params:
        program=script("check_alignment"),
        bundle=lambda w: bundle_folder(w.sample),
        he=lambda w: flags(he_files(w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "check_alignment",
            sample=facts(w.sample, "he_alignment", "he_um_per_px"),
            trusted=w.sample in config["alignment"]["trusted"],
            seed=config["seed"],
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --report {output.report:q}"
        " --overlay {output.overlay:q} --options {params.options:q} --log {log:q}"


rule pool_spots:
    input:
        unpack(lambda w: on_disk(w.sample, bundle_files(w.sample))),
        check=f"{RESULTS}/samples/{{sample}}/check.json",
        centres=centres_of,
    output:
        spots=directory(f"{RESULTS}/samples/{{sample}}/{{spots}}/spots.zarr"),
        audit=f"{RESULTS}/samples/{{sample}}/{{spots}}/audit.json",
        table=f"{RESULTS}/samples/{{sample}}/{{spots}}/qc.tsv",
        figure=f"{RESULTS}/samples/{{sample}}/{{spots}}/qc.png",
    log:
        f"{RESULTS}/logs/pool_spots/{{sample}}_{{spots}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=grows(6000, kspots=60),
        runtime=grows(30, gb=2),
    params:
        program=script("pool_spots"),
        bundle=lambda w: bundle_folder(w.sample),
        he=lambda w: flags(he_files(w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "pool_spots",
            sample=facts(w.sample, "panel", "he_image", "he_alignment", "he_um_per_px"),
            spots_name=w.spots,
            spots=preset_of(w),
            overlay_gene=overlay_gene(w.sample),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --spots {output.spots:q}"
        " --audit {output.audit:q} --table {output.table:q} --figure {output.figure:q}"
        " --options {params.options:q} --log {log:q}"

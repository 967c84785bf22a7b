"""Spots: transcripts pooled into pseudo-spots, with an audit that adds up.

IN   <bundles>/<sample>/, <results>/samples/<sample>/check.json
OUT  <results>/samples/<sample>/<spots>/{spots.zarr,audit.json,qc.png}
"""


rule pool_spots:
    input:
        unpack(lambda w: bundle_files(w.sample)),
        check=f"{RESULTS}/samples/{{sample}}/check.json",
        centres=centres_of,
    output:
        spots=directory(f"{RESULTS}/samples/{{sample}}/{{spots}}/spots.zarr"),
        audit=f"{RESULTS}/samples/{{sample}}/{{spots}}/audit.json",
        figure=f"{RESULTS}/samples/{{sample}}/{{spots}}/qc.png",
    log:
        f"{RESULTS}/logs/pool_spots/{{sample}}_{{spots}}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        program=script("pool_spots"),
        bundle=lambda w: bundle_folder(w.sample),
        he=lambda w: flags(he_files(w.sample), "he_image", "he_alignment"),
        options=lambda w: options(
            "pool_spots",
            sample=facts(w.sample, "panel", "he_image", "he_alignment"),
            spots_name=w.spots,
            spots=preset_of(w),
            overlay_gene=overlay_gene(w.sample),
        ),
    shell:
        "python {params.program:q} --bundle {params.bundle:q} {params.he} --spots {output.spots:q}"
        " --audit {output.audit:q} --figure {output.figure:q} --options {params.options:q}"
        " --log {log:q}"

"""What runs need besides data: published weights, and latents made by a frozen autoencoder.

INPUTS: the data directory or a download; prepared images and an autoencoder.
OUTPUTS: results/weights/<name>.json; results/data/<dataset>-latents-<hash>/manifest.json, with shards beside it.
"""


localrules:
    weights,


rule weights:
    """Published weights, found or downloaded; a plan that waits for a person to bring them stops here."""
    input:
        lambda wildcards: or_stop(PLAN.check_weights, wildcards.weights) or [],
    output:
        f"{PLAN.command_line.results_dir}/weights/{{weights}}.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/weights/{{weights}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/weights/{{weights}}.tsv"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        data_dir=PLAN.command_line.data_dir,
    shell:
        "python -m dblocks weights {wildcards.weights} --data-dir {params.data_dir:q} --manifest {output:q}"
        " 2>&1 | tee {log:q}"


rule encode:
    """A data set's training images as latents; what is encoded already is kept."""
    input:
        spec=lambda wildcards: ancient(str(PLAN.folder(PLAN.encoded()[wildcards.latents], 0) / "spec.json")),
        images=lambda wildcards: str(PLAN.needs_of(PLAN.encoded()[wildcards.latents])["images"]),
        autoencoder=lambda wildcards: str(PLAN.needs_of(PLAN.encoded()[wildcards.latents])["autoencoder"]),
    output:
        f"{PLAN.command_line.results_dir}/data/{{latents}}/manifest.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/latents/{{latents}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/latents/{{latents}}.tsv"
    resources:
        gpu=lambda wildcards: PLAN.runs[PLAN.encoded()[wildcards.latents]][0].gpus_of_a_process,
        mem_mb=lambda wildcards: PLAN.runs[PLAN.encoded()[wildcards.latents]][0].resources.mem_mb,
        runtime=lambda wildcards: PLAN.runs[PLAN.encoded()[wildcards.latents]][0].resources.runtime_minutes,
    params:
        folder=folder_of_output,
    shell:
        "python -m dblocks encode {input.spec:q} --images {input.images:q} --autoencoder {input.autoencoder:q}"
        " --folder {params.folder:q} >> {log:q} 2>&1"

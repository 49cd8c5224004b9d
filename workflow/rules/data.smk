"""Data sets, prepared once for all scales.

INPUTS: what comes with the installation, the data directory or the hub.
OUTPUTS: results/data/<dataset>/manifest.json, with memory-mapped arrays beside it.
"""


localrules:
    data,
    prepare_data,


rule data:
    """Every data set, and all published weights, that the plan needs: what wants a network."""
    input:
        [str(PLAN.manifest(dataset)) for dataset in PLAN.datasets()],
        [str(path) for path in PLAN.published_weights()],


rule prepare_data:
    """One data set, from its source to arrays; a plan that waits for a person's data stops here."""
    input:
        lambda wildcards: or_stop(PLAN.check_data, wildcards.dataset) or [],
    output:
        f"{PLAN.command_line.results_dir}/data/{{dataset}}/manifest.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/data/{{dataset}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/data/{{dataset}}.tsv"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        arguments=lambda wildcards: PLAN.prepare_arguments(wildcards.dataset),
        folder=folder_of_output,
    shell:
        "python -m dblocks prepare {params.arguments:q} --download --folder {params.folder:q} 2>&1 | tee {log:q}"

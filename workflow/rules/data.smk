"""Data sets, prepared once for all scales.

INPUTS: what comes with the installation, the data directory or the hub.
OUTPUTS: results/data/<dataset>/manifest.json, with memory-mapped arrays beside it.
"""


localrules:
    data,
    prepare_data,


rule data:
    """Every data set the plan needs."""
    input:
        [str(PLAN.manifest(dataset)) for dataset in PLAN.datasets()],


rule prepare_data:
    """One data set, from its source to arrays."""
    output:
        f"{PLAN.command_line.results_dir}/data/{{dataset}}/manifest.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/data/{{dataset}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/data/{{dataset}}.tsv"
    params:
        data_dir=PLAN.command_line.data_dir,
    resources:
        mem_mb=4000,
        runtime=120,
    shell:
        "python -m dblocks prepare {wildcards.dataset} --data-dir {params.data_dir:q}"
        " --folder $(dirname {output:q}) > {log:q} 2>&1"

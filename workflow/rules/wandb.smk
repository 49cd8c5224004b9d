"""W&B: reports, and runs that were made without it.

INPUTS: tables' plans and records. OUTPUTS: results/<scale>/wandb/<report>.json, with `wandb=online` <report>.url;
results/<scale>/wandb/runs/<run>/seed<k>.txt for each run that was uploaded.
"""


localrules:
    wandb_reports,
    wandb_json,
    wandb_push,
    wandb_sync,
    wandb_upload,


rule wandb_reports:
    """A W&B report a table and an overview: as JSON, and with `wandb=online` at W&B."""
    input:
        wandb_files("json"),
        wandb_files("url") if PLAN.command_line.wandb == "online" else [],


rule wandb_json:
    """The reports as JSON; nothing is sent."""
    input:
        plans=[f"{ROOT}/plans/{table}.json" for table in PLAN.in_all],
        tables=[table_files(table) for table in PLAN.in_all],
    output:
        wandb_files("json"),
    log:
        f"{ROOT}/logs/wandb/reports.log",
    benchmark:
        f"{ROOT}/benchmarks/wandb/reports.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        folder=folder_of_output,
    shell:
        "python -m dblocks wandb_reports {input.plans:q} --folder {params.folder:q} > {log:q} 2>&1"


rule wandb_push:
    """The reports at W&B, made or renewed; their addresses."""
    input:
        plans=[f"{ROOT}/plans/{table}.json" for table in PLAN.in_all],
        reports=wandb_files("json"),
    output:
        wandb_files("url"),
    log:
        f"{ROOT}/logs/wandb/push.log",
    benchmark:
        f"{ROOT}/benchmarks/wandb/push.tsv"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        folder=folder_of_output,
    shell:
        "python -m dblocks wandb_reports {input.plans:q} --push --folder {params.folder:q} 2>&1 | tee {log:q}"


rule wandb_sync:
    """Every finished run at W&B, each once; those that are not finished are left for later."""
    input:
        [f"{ROOT}/wandb/runs/{run}/seed{seed}.txt" for run, seed in PLAN.finished_runs()],


rule wandb_upload:
    """One run that was made offline."""
    input:
        f"{ROOT}/runs/{{run}}/seed{{seed}}/record.json",
    output:
        f"{ROOT}/wandb/runs/{{run}}/seed{{seed}}.txt",
    log:
        f"{ROOT}/logs/wandb/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/wandb/{{run}}/seed{{seed}}.tsv"
    resources:
        mem_mb=1000,
        runtime=30,
    shell:
        "python -m dblocks wandb_sync {input:q} --to {output:q} 2>&1 | tee {log:q}"

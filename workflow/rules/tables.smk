"""Tables, from records alone.

INPUTS: record.json of every seed of every row. OUTPUTS: results/<scale>/tables/<table>.{csv,md,tex}.
"""

import json


localrules:
    table,


rule table:
    """One table in all its formats."""
    input:
        lambda wildcards: [str(path) for path in PLAN.records_of(wildcards.table)],
    output:
        csv=f"{ROOT}/tables/{{table}}.csv",
        md=f"{ROOT}/tables/{{table}}.md",
        tex=f"{ROOT}/tables/{{table}}.tex",
    log:
        f"{ROOT}/logs/tables/{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/tables/{{table}}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=json.dumps(PLAN.command_line.model_dump(exclude={"wandb", "data_dir"})),
    shell:
        "python -m dblocks table {wildcards.table} --config {params.config:q} > {log:q} 2>&1"


# `snakemake table_1` and so on
for _table in PLAN.tables:

    rule:
        name:
            _table
        input:
            table_files(_table),
        localrule: True

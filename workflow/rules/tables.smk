"""Tables and their figures, from records and measurements alone.

INPUTS: record.json of every seed of every row, measurement.json where rows read one, and the table's plan, which names them.
OUTPUTS: results/<scale>/tables/<table>.{csv,md,tex}, and .svg where the table has a figure.
"""


localrules:
    table,
    figure,


rule table:
    """One table in all its formats."""
    input:
        # written when it changes: other seeds, rows, paper values or claims make the table anew
        plan=f"{ROOT}/plans/{{table}}.json",
        records=lambda wildcards: [str(path) for path in PLAN.records_of(wildcards.table)],
    output:
        csv=report(
            f"{ROOT}/tables/{{table}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
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
        folder=folder_of_output,
    shell:
        "python -m dblocks table {input.plan:q} --folder {params.folder:q} > {log:q} 2>&1"


rule figure:
    """The figure of a table that has one."""
    input:
        plan=f"{ROOT}/plans/{{table}}.json",
        records=lambda wildcards: [str(path) for path in PLAN.records_of(wildcards.table)],
    output:
        report(
            f"{ROOT}/tables/{{table}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"table": "{table}"},
        ),
    log:
        f"{ROOT}/logs/figures/{{table}}.log",
    benchmark:
        f"{ROOT}/benchmarks/figures/{{table}}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        folder=folder_of_output,
    shell:
        "python -m dblocks figure {input.plan:q} --folder {params.folder:q} > {log:q} 2>&1"


# `snakemake table_1` and so on
for _table in PLAN.tables:

    rule:
        name:
            _table
        input:
            table_files(_table),
        localrule: True

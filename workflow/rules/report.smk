"""The report page, from tables' plans and the records they name.

INPUTS: every table's plan and files. OUTPUTS: results/<scale>/report.html, one self-contained page.
"""


localrules:
    report,


rule report:
    """Tables, claims, curves, samples and pictures of a scale on one page."""
    input:
        plans=[f"{ROOT}/plans/{table}.json" for table in PLAN.in_all],
        tables=[table_files(table) for table in PLAN.in_all],
    output:
        report(
            f"{ROOT}/report.html",
            caption="../report/page.rst",
            category="Report page",
            labels={"scale": PLAN.command_line.scale},
        ),
    log:
        f"{ROOT}/logs/report.log",
    benchmark:
        f"{ROOT}/benchmarks/report.tsv"
    resources:
        mem_mb=2000,
        runtime=20,
    shell:
        "python -m dblocks report {input.plans:q} --to {output:q} > {log:q} 2>&1"

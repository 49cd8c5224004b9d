"""Measurements of networks: memory, wall time, operations. They need neither data nor trained weights.

INPUTS: request.json. OUTPUTS: results/<scale>/measurements/<name>-<hash8>/measurement.json.
"""


rule measure:
    """Take one measurement."""
    input:
        f"{ROOT}/measurements/{{measurement}}/request.json",
    output:
        f"{ROOT}/measurements/{{measurement}}/measurement.json",
    log:
        f"{ROOT}/logs/measurements/{{measurement}}.log",
    benchmark:
        f"{ROOT}/benchmarks/measurements/{{measurement}}.tsv"
    # what is timed has the machine to itself: it takes every core, and on a cluster a node of its own
    threads: lambda wildcards: measuring_threads(wildcards.measurement)
    resources:
        gpu=lambda wildcards: PLAN.measuring_gpus(wildcards.measurement),
        mem_mb=lambda wildcards: max(8000, PLAN.request(wildcards.measurement).spec.resources.mem_mb),
        runtime=30,
        slurm_extra=lambda wildcards: "'--exclusive'" if PLAN.is_timed(wildcards.measurement) else "",
    shell:
        "python -m dblocks measure {input:q} > {log:q} 2>&1"

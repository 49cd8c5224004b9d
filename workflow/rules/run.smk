"""One run, one job: train, evaluate, record.

INPUTS: the run's spec.json, its prepared data, what its evaluation needs. OUTPUTS: record.json; checkpoints, weights and log lie
beside it undeclared, so that Snakemake never deletes them.
"""


rule run:
    """Bring a run to its record from wherever it stands; a finished one is only checked."""
    input:
        # ancient: what a run is stands in its folder's name, so a newer file never means another run
        spec=ancient(f"{ROOT}/runs/{{run}}/seed{{seed}}/spec.json"),
        # not ancient: behind an ancient file that is made again, Snakemake forgets to ask what else is to be done
        data=lambda wildcards: str(PLAN.manifest_of(wildcards.run)),
        needs=lambda wildcards: [str(path) for path in PLAN.needs_of(wildcards.run).values()],
    output:
        f"{ROOT}/runs/{{run}}/seed{{seed}}/record.json",
    log:
        f"{ROOT}/logs/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/{{run}}/seed{{seed}}.tsv"
    threads: lambda wildcards: spec_of(wildcards).compute.threads
    resources:
        gpu=lambda wildcards: spec_of(wildcards).resources.gpu,
        mem_mb=lambda wildcards: spec_of(wildcards).resources.mem_mb,
        runtime=lambda wildcards: spec_of(wildcards).resources.runtime_minutes,
    params:
        needs=lambda wildcards: PLAN.needs_arguments(wildcards.run),
    shell:
        "python -m dblocks run {input.spec:q} --data {input.data:q} {params.needs:q} >> {log:q} 2>&1"

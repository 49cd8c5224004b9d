"""One run, one job: train, evaluate, record. Blocks in parallel: one job a block, then the run's, which joins them.

INPUTS: the run's spec.json, its prepared data, what its evaluation needs. OUTPUTS: record.json (of a block: block.json);
checkpoints, weights and log lie beside it undeclared, so that Snakemake never deletes them.
"""


rule block:
    """Train one block alone, from wherever it stands; a finished one is only checked."""
    input:
        spec=ancient(f"{ROOT}/runs/{{run}}/seed{{seed}}/spec.json"),
        data=lambda wildcards: str(PLAN.manifest_of(wildcards.run)),
    output:
        f"{ROOT}/runs/{{run}}/seed{{seed}}/blocks/{{block}}/block.json",
    log:
        f"{ROOT}/logs/{{run}}/seed{{seed}}-block{{block}}.log",
    benchmark:
        f"{ROOT}/benchmarks/{{run}}/seed{{seed}}-block{{block}}.tsv"
    threads: lambda wildcards: spec_of(wildcards).compute.threads
    resources:
        gpu=lambda wildcards: spec_of(wildcards).gpu_count,
        mem_mb=lambda wildcards: spec_of(wildcards).resources.mem_mb,
        runtime=lambda wildcards: spec_of(wildcards).resources.runtime_minutes,
    shell:
        "python -m dblocks block {input.spec:q} {wildcards.block} --data {input.data:q} >> {log:q} 2>&1"


rule run:
    """Bring a run to its record from wherever it stands; a finished one is only checked."""
    input:
        # ancient: what a run is stands in its folder's name, so a newer file never means another run
        spec=ancient(f"{ROOT}/runs/{{run}}/seed{{seed}}/spec.json"),
        # not ancient: behind an ancient file that is made again, Snakemake forgets to ask what else is to be done
        data=lambda wildcards: str(PLAN.manifest_of(wildcards.run)),
        needs=lambda wildcards: [str(path) for path in PLAN.needs_of(wildcards.run, int(wildcards.seed)).values()],
        blocks=lambda wildcards: [str(path) for path in PLAN.blocks_of(wildcards.run, int(wildcards.seed))],
    output:
        f"{ROOT}/runs/{{run}}/seed{{seed}}/record.json",
    log:
        f"{ROOT}/logs/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/{{run}}/seed{{seed}}.tsv"
    threads: lambda wildcards: spec_of(wildcards).compute.threads
    resources:
        gpu=lambda wildcards: spec_of(wildcards).gpu_count,
        mem_mb=lambda wildcards: spec_of(wildcards).resources.mem_mb,
        runtime=lambda wildcards: spec_of(wildcards).resources.runtime_minutes,
    params:
        needs=lambda wildcards: PLAN.needs_arguments(wildcards.run, int(wildcards.seed)),
    shell:
        "python -m dblocks run {input.spec:q} --data {input.data:q} {params.needs:q} >> {log:q} 2>&1"

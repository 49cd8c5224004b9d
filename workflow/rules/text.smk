"""What language models need besides text: a tokenizer, and the text as its tokens.

INPUTS: a prepared text, or a published tokenizer.
OUTPUTS: results/data/<dataset>-<tokenizer>-<hash>/tokenizer.json and manifest.json, with packed arrays beside them.
"""


rule tokenizer:
    """A tokenizer trained on the training split, or a published one."""
    input:
        spec=lambda wildcards: ancient(tokens_spec(wildcards)),
        source=lambda wildcards: str(PLAN.tokenizer_source(wildcards.tokens)),
    output:
        f"{PLAN.command_line.results_dir}/data/{{tokens}}/tokenizer.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/tokenizer/{{tokens}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/tokenizer/{{tokens}}.tsv"
    resources:
        mem_mb=8000,
        runtime=120,
    shell:
        "python -m dblocks tokenizer {input.spec:q} --source {input.source:q} --output {output:q} >> {log:q} 2>&1"


rule tokenize:
    """A data set's records as packed tokens; what is packed already is kept."""
    input:
        spec=lambda wildcards: ancient(tokens_spec(wildcards)),
        text=tokens_text,
        tokenizer=f"{PLAN.command_line.results_dir}/data/{{tokens}}/tokenizer.json",
    output:
        f"{PLAN.command_line.results_dir}/data/{{tokens}}/manifest.json",
    log:
        f"{PLAN.command_line.results_dir}/logs/tokenize/{{tokens}}.log",
    benchmark:
        f"{PLAN.command_line.results_dir}/benchmarks/tokenize/{{tokens}}.tsv"
    resources:
        mem_mb=8000,
        runtime=600,
    params:
        folder=folder_of_output,
    shell:
        "python -m dblocks tokenize {input.spec:q} --text {input.text:q} --folder {params.folder:q} >> {log:q} 2>&1"

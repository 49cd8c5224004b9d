"""The plan and what the rules need of it.

INPUTS: config/*.yaml and the command line. OUTPUTS: a spec.json for each run, written where it is not there.
"""


def or_stop(function, *arguments):
    """What `function` returns; a user's error, or a file that cannot be read, ends the planning in one line, where
    Snakemake would print many."""
    try:
        return function(*arguments)
    except (UserError, OSError) as error:
        line = of_system(error) if isinstance(error, OSError) else error
        print(f"dblocks: {line}", file=sys.stderr, flush=True)
        os._exit(2)


PLAN = or_stop(make_plan, config)

ROOT = str(PLAN.root)

or_stop(write_plan, PLAN)
if workflow.is_main_process:
    print(PLAN.first_line(), file=sys.stderr)
PLAN.export_environment(workflow.basedir)


onstart:
    # not while planning: a login node that submits jobs needs no GPU
    if workflow.local_exec:
        try:
            PLAN.check_gpu()
        except UserError as error:
            sys.exit(f"dblocks: {error}")


def one_of(names):
    """The pattern of a wildcard that is one of these names, letter by letter."""
    return "|".join(map(re.escape, names)) or "none"


wildcard_constraints:
    run=one_of(PLAN.runs),
    seed=r"\d+",
    block=r"\d+",
    table=one_of(PLAN.tables),
    dataset=one_of(PLAN.datasets()),
    latents=one_of(PLAN.encoded()),
    tokens=one_of(PLAN.tokenized()),
    weights="[a-z0-9-]+",
    measurement=one_of(PLAN.requests),


def folder_of_output(wildcards, output):
    """The folder that a job writes to, as one argument whatever characters it is made of."""
    return str(Path(output[0]).parent)


def spec_of(wildcards):
    """The RunSpec of a run's job."""
    return PLAN.spec(wildcards.run, int(wildcards.seed))


def measuring_threads(measurement):
    """Cores a measurement takes on this machine: all of them where it is timed."""
    if PLAN.is_timed(measurement) and workflow.local_exec:
        return workflow.cores
    return PLAN.request(measurement).spec.compute.threads


def wandb_files(suffix):
    """The files of all W&B reports."""
    return [f"{ROOT}/wandb/{report}.{suffix}" for report in (*PLAN.in_all, "overview")]


def table_files(table):
    """The files that make up a table."""
    suffixes = ("csv", "md", "tex", "svg") if PLAN.tables[table].figure else ("csv", "md", "tex")
    return [f"{ROOT}/tables/{table}.{suffix}" for suffix in suffixes]


def tokens_spec(wildcards):
    """The spec.json of a run that trains on a folder of tokens."""
    return str(PLAN.folder(PLAN.tokenized()[wildcards.tokens], 0) / "spec.json")


def tokens_text(wildcards):
    """The prepared text behind a folder of tokens."""
    return str(PLAN.manifest(data_key(PLAN.runs[PLAN.tokenized()[wildcards.tokens]][0].data)))

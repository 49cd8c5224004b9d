"""The built parts of README.md: tables from committed records, and the tree from the files' first lines.

A part stands between `<!-- begin: NAME -->` and `<!-- end -->`; NAME is `tree`, `costs <scale>` or `<table> <scale>`.
"""

from __future__ import annotations

import ast
import re
import tempfile
from pathlib import Path

from dblocks.doctor import cost
from dblocks.errors import UserError
from dblocks.plan import make_plan
from dblocks.report.build_tables import tables_from_records

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "results" / "reference"
PART = re.compile(r"(<!-- begin: (?P<name>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TREE = ("Snakefile", "workflow/rules/*.smk", "dblocks/**/*.py", "benchmarks/*.py")
FOLDERS = {
    "config": "scales.yaml, runs/, tables/, claims.yaml: what is run, what a table holds, what is claimed",
    "envs": "the tested versions; conda and Apptainer",
    "results/reference": "committed records, and the tables built from them",
    "slurm": "the profile behind `--profile slurm`",
    "tests": "mirrors dblocks/, plus workflow/ (real Snakemake) and slurm/ (real SLURM)",
    "workflow/schemas": "JSON schemas of config/, generated from the typed configuration",
}


def first_line(path: Path) -> str:
    """The first line of a Python or Snakemake file's docstring."""
    text = path.read_text()
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return text.removeprefix('"""').partition("\n")[0].removesuffix('"""')


def tree() -> str:
    """One line per file that has something to say, then the folders of other files."""
    paths = sorted(path for pattern in TREE for path in REPOSITORY.glob(pattern))
    lines = {str(path.relative_to(REPOSITORY)): first_line(path) for path in paths}
    lines = {name: text for name, text in lines.items() if text} | {f"{name}/": text for name, text in FOLDERS.items()}
    width = max(map(len, lines))
    return "```\n" + "".join(f"{name.ljust(width)}  {text}\n" for name, text in lines.items()) + "```\n"


def costs(scale: str) -> str:
    """Jobs, GPU-hours and disk of every table at a scale, nothing of it made yet, in markdown."""
    with tempfile.TemporaryDirectory() as nothing:
        plan = make_plan({"scale": scale, "data_dir": nothing, "results_dir": nothing})
        rows = [cost(plan, table) for table in plan.tables]
    names = [name for name in rows[0] if name != "table"]
    lines = [f"| table | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row in rows:
        shown = (row[name].partition(",")[0] for name in names)
        lines.append(f"| {row['table'].replace('table_', '')} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def part(name: str) -> str:
    """A built part by its name."""
    if name == "tree":
        return tree()
    first, second = name.split()
    return costs(second) if first == "costs" else reference_table(first, second)


def reference_table(name: str, scale: str) -> str:
    """A table in markdown, built from the committed records, without its title."""
    with tempfile.TemporaryDirectory() as folder:
        for path in tables_from_records(REFERENCE, Path(folder)):
            if path == Path(folder) / scale / "tables" / f"{name}.md":
                return path.read_text().partition("\n\n")[2]
    raise UserError(f"{REFERENCE}: no records for {name} at scale {scale}")


def built_readme(text: str) -> str:
    """README.md with every built part made anew."""

    def build(match: re.Match) -> str:
        return match[1] + part(match["name"]) + match[3]

    return PART.sub(build, text)


def write_readme() -> Path:
    """Rewrite README.md's built parts; returns its path."""
    path = REPOSITORY / "README.md"
    path.write_text(built_readme(path.read_text()))
    return path

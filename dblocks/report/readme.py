"""The built parts of the documents: tables of committed records, figures, costs, the tree of files' first lines.

A part stands between `<!-- begin: NAME -->` and `<!-- end -->`; NAME is `tree`, `speed`, `costs <scale>`,
`figure <table> <scale>` or `<table> <scale>`.
"""

from __future__ import annotations

import ast
import re
import tempfile
from pathlib import Path

from dblocks.claims import TablePlan
from dblocks.doctor import cost
from dblocks.errors import UserError
from dblocks.planning import make_plan
from dblocks.report.build_tables import judged_cells, plans_from_records
from dblocks.report.page_figures import dot_plot
from dblocks.report.speed import speed_table
from dblocks.report.table_files import markdown

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = tuple(
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md", "results/reference/README.md")
)
REFERENCE = REPOSITORY / "results" / "reference"
PART = re.compile(r"(<!-- begin: (?P<name>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TREE = ("Snakefile", "workflow/rules/*.smk", "dblocks/**/*.py", "benchmarks/*.py", "benchmarks/*.sh")
FOLDERS = {
    "config": "scales.yaml, runs/, tables/, claims.yaml: what is run, what a table holds, what is claimed",
    "envs": "the tested versions; conda and Apptainer",
    "results/reference": "committed records, and the tables built from them",
    "slurm": "the profile behind `--profile slurm`",
    "tests": "mirrors dblocks/, plus workflow/ (real Snakemake) and slurm/ (real SLURM)",
    "workflow/schemas": "JSON schemas of config/, generated from the typed configuration",
}


def first_line(path: Path) -> str:
    """The first line of a Python or Snakemake file's docstring, of a script's comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    if path.suffix == ".sh":
        return text.splitlines()[1].removeprefix("# ")
    return text.removeprefix('"""').partition("\n")[0].removesuffix('"""')


def tree() -> str:
    """One line per file that has something to say, then the folders of other files."""
    paths = sorted(path for pattern in TREE for path in REPOSITORY.glob(pattern))
    lines = {str(path.relative_to(REPOSITORY)): first_line(path) for path in paths}
    lines = {name: text for name, text in lines.items() if text} | {f"{name}/": text for name, text in FOLDERS.items()}
    width = max(map(len, lines))
    return "```\n" + "".join(f"{name.ljust(width)}  {text}\n" for name, text in lines.items()) + "```\n"


def costs(scale: str) -> str:
    """Jobs, GPU-hours and disk of target `all` and of every table at a scale, nothing of it made yet, in markdown."""
    with tempfile.TemporaryDirectory() as nothing:
        plan = make_plan({"scale": scale, "data_dir": nothing, "results_dir": nothing})
        rows = [cost(plan, target) for target in ("all", *plan.tables)]
    names = [name for name in rows[0] if name != "table"]
    lines = [f"| table | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row in rows:
        shown = (row[name].partition(",")[0] for name in names)
        lines.append(f"| {row['table'].replace('table_', '')} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def figure_path(table: str, scale: str) -> Path:
    """Where a table's drawing in README.md lies."""
    return REFERENCE / scale / "tables" / f"{table}-dots.svg"


def reference_plan(table: str, scale: str) -> TablePlan:
    """A table's plan of the committed records.

    Raises: UserError if there are none for it.
    """
    for plan in plans_from_records(REFERENCE):
        if (plan.table.table, plan.scale) == (table, scale):
            return plan
    raise UserError(f"{REFERENCE}: no records for {table} at scale {scale}")


def reference_figure(table: str, scale: str) -> tuple[str, str]:
    """The drawing of a table's first column from the committed records, as SVG, and what it shows in words.

    Raises: UserError if there are no records for it.
    """
    plan = reference_plan(table, scale)
    column = plan.table.columns[0]
    cells = [cell for cell in judged_cells(plan)[0] if cell.column == column]
    words = "; ".join(f"{cell.row} {cell.text()}" for cell in cells if cell.metrics)
    return dot_plot(column, cells), f"{column.label} at scale {scale}: {words}"


def part(name: str) -> str:
    """A built part by its name."""
    match name.split():
        case ["tree"]:
            return tree()
        case ["speed"]:
            return speed_table(REFERENCE / "benchmarks")
        case ["costs", scale]:
            return costs(scale)
        case ["figure", table, scale]:
            words = reference_figure(table, scale)[1]
            return f"![{words}]({figure_path(table, scale).relative_to(REPOSITORY)})\n"
        case [table, scale]:
            return reference_table(table, scale)
    raise UserError(f"no built part is called '{name}'")


def reference_table(name: str, scale: str) -> str:
    """A table in markdown, built from the committed records, without its title."""
    plan = reference_plan(name, scale)
    return markdown(plan.table, *judged_cells(plan), scale).partition("\n\n")[2]


def built_readme(text: str) -> str:
    """A document with every built part made anew."""

    def build(match: re.Match) -> str:
        return match[1] + part(match["name"]) + match[3]

    return PART.sub(build, text)


def write_readmes() -> tuple[Path, ...]:
    """Rewrite the built parts of the documents that have some; returns their paths."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for table, scale in figures(text):
            figure_path(table, scale).write_text(reference_figure(table, scale)[0], encoding="utf-8")
        path.write_text(built_readme(text), encoding="utf-8")
    return DOCUMENTS


def figures(text: str) -> list[tuple[str, str]]:
    """(table, scale) of every drawing in a document's text."""
    found = (match["name"].split() for match in PART.finditer(text))
    return [(words[1], words[2]) for words in found if words[0] == "figure"]

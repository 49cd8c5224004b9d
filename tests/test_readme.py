"""The documents say what the files and committed records say."""

import re
import shlex
from pathlib import Path

import pytest

from dblocks.planning import make_plan
from dblocks.reading import parse_yaml
from dblocks.report.build_tables import tables_from_records
from dblocks.report.readme import (
    DOCUMENTS,
    PART,
    REFERENCE,
    REPOSITORY,
    built_readme,
    figure_path,
    figures,
    reference_figure,
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_built_parts_are_in_sync(path):
    text = path.read_text()
    assert PART.search(text)
    assert built_readme(text) == text, "run `python -m dblocks readme`"


PAIR = re.compile(
    r"(?<![\w/])(?:'\w+=[^']*'|(?:seeds|scale|device|data_dir|skip|override|override_runs|wandb|max_\w+)=(?:'[^']*'|[^\s`']+))"
)
OWN_FILES = ("upside_down", "my.txt", "DIR/")  # the reader's, or made in a recipe
CALLS = [
    (document.name, line)
    for document in DOCUMENTS
    for line in document.read_text().splitlines()
    if "key=value" not in line and PAIR.search(line) and not any(name in line for name in OWN_FILES)
]


@pytest.mark.parametrize(("document", "line"), CALLS)
def test_what_the_documents_give_to_config_is_taken_at_every_scale(document, line, tmp_path):
    pairs = [shlex.split(pair)[0].partition("=") for pair in PAIR.findall(line)]
    given = {key: parse_yaml(value) for key, _, value in pairs}
    own = {"data_dir": str(tmp_path), "results_dir": str(tmp_path / "results")}
    for scale in [given["scale"]] if "scale" in given else ["smoke", "short", "paper"]:
        make_plan({"scale": scale, **given, **own})


def test_a_changed_number_is_noticed(tmp_path: Path):
    text = (REPOSITORY / "README.md").read_text()
    begin = text.index("<!-- begin: table_1")
    digit = next(i for i in range(begin + 40, len(text)) if text[i].isdigit())
    changed = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    assert built_readme(changed) == text


def test_drawings_are_those_of_the_committed_records():
    drawn = figures((REPOSITORY / "README.md").read_text())
    assert drawn
    for table, scale in drawn:
        assert figure_path(table, scale).read_text() == reference_figure(table, scale)[0]


def test_committed_tables_are_those_of_the_committed_records(tmp_path, monkeypatch):
    """`python -m dblocks tables --from-records results/reference`, file by file."""
    monkeypatch.chdir(REPOSITORY)
    source = REFERENCE.relative_to(REPOSITORY)
    made = {path.relative_to(tmp_path): path.read_text() for path in tables_from_records(source, tmp_path)}
    there = {path.relative_to(REFERENCE): path.read_text() for path in REFERENCE.glob("*/tables/*")}
    drawn = {path for path in there if path.name.endswith("-dots.svg")}  # README's, tested above
    assert there.keys() - drawn == made.keys()
    for path, text in made.items():
        assert text == there[path], f"{path}: run `python -m dblocks tables --from-records results/reference`"

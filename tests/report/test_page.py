"""The report page: everything in it, nothing outside it, and a browser that agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dblocks.errors import UserError
from dblocks.report.build_tables import judged_cells, plans_from_records
from dblocks.report.page import write_page
from dblocks.report.readme import REFERENCE
from tests.workflow.helpers import dblocks, make_record, one_line, save_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Page(HTMLParser):
    """Anchors, links, images and scripts of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.text = path, path.read_text()
        self.anchors, self.links, self.images, self.tags = set(), [], [], []
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.anchors.add(attributes.get("id"))
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)


@pytest.fixture(scope="module")
def plans():
    return [plan for plan in plans_from_records(REFERENCE) if plan.scale == "smoke"]


@pytest.fixture(scope="module")
def page(plans, tmp_path_factory) -> Page:
    """The report of the committed records, beside them as in a pipeline."""
    folder = tmp_path_factory.mktemp("report") / "smoke"
    shutil.copytree(REFERENCE / "smoke", folder)
    plans = [plan for plan in plans_from_records(folder.parent) if plan.scale == "smoke"]
    return Page(write_page(plans, folder / "report.html"))


def test_every_table_row_and_number_is_there_and_leads_to_its_run(page, plans):
    for plan in plans:
        cells, verdicts = judged_cells(plan)
        assert plan.table.table in page.anchors
        for cell in cells:
            assert f">{escaped(cell.row)}</th>" in page.text
            if cell.metrics:
                path = Path(cell.records[0])
                run, measured = path.parent.parent.name, path.relative_to(REFERENCE / "smoke")
                address = measured if cell.measurement else f"#{run}"
                value, _, rest = cell.text().partition(" (")
                shown = f'<a href="{address}">{value}</a>' + (f" <small>({rest}</small>" if rest else "")
                assert f'<td class="value">{shown}</td>' in page.text
        for verdict in verdicts:
            assert escaped(verdict.claim.statement) in page.text and escaped(verdict.detail) in page.text


def test_every_link_leads_somewhere(page, plans):
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.anchors
        elif not link.startswith("https://arxiv.org/"):
            assert (page.path.parent / link).exists(), link
    read = {path for plan in plans for paths in plan.records.values() for path in paths}
    assert len([link for link in page.links if link.endswith("record.json")]) == len(read) > 50


def test_the_page_needs_no_other_file_and_runs_no_code(page):
    assert page.images and all(image["src"].startswith("data:image/") for image in page.images)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object")]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "link"] == ["data:,"]
    assert "url(" not in page.text and "@import" not in page.text


def test_pictures_have_words_in_their_place(page):
    assert all(len(image["alt"]) > 10 for image in page.images)


def test_text_from_a_run_cannot_become_markup(tmp_path):
    (path,) = save_records(tmp_path, [make_record()])
    (path.parent / "samples.txt").write_text("<script>alert(1)</script>\n")
    text = write_page(plans_from_records(tmp_path), tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in text and "<script>" not in text


def test_time_of_training_is_told_once_where_runs_share_it(tmp_path):
    trainer, other = make_record("vit/diffusion_blocks"), make_record("vit/bridge_normalized")
    taken = other.model_copy(update={"trained_as": "vit-diffusion_blocks-a095a67b/seed0", "train_seconds": 86400.0})
    save_records(tmp_path, [trainer, taken])
    text = write_page(plans_from_records(tmp_path), tmp_path / "report.html").read_text()
    assert "as vit-diffusion_blocks-a095a67b/seed0" in text and "86400" not in text
    hours = (trainer.train_seconds + trainer.evaluate_seconds + other.evaluate_seconds) / 3600
    assert f"{hours:.2g} hours of training and evaluation" in text


def test_nothing_measured_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no tables to report"):
        write_page([], tmp_path / "report.html")
    save_records(tmp_path / "records", [make_record()])
    line = one_line(dblocks(tmp_path, "report", "--from-records", "records", "--scale", "paper", "--to", "report.html"))
    assert "no tables to report" in line and not (tmp_path / "report.html").exists()


@browser
def test_a_browser_shows_it_without_an_error_or_a_request(page, tmp_path):
    errors, hosts = seen_by_browser(page.path, tmp_path / "page")
    assert errors == []
    # the browser itself calls home, so a page that asks for something is what to tell this one from
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>")
    bad_errors, bad_hosts = seen_by_browser(bad, tmp_path / "bad")
    assert len(bad_errors) == 1 and "127.0.0.1" in bad_hosts
    blank = tmp_path / "blank.html"
    blank.write_text("<p>nothing</p>")
    assert hosts <= seen_by_browser(blank, tmp_path / "blank")[1] | bad_hosts - {"127.0.0.1"}


def seen_by_browser(path: Path, folder: Path) -> tuple[list[str], set[str]]:
    """Console messages of a page, and the hosts asked for while it was loaded."""
    folder.mkdir()
    log = folder / "net.json"
    found = chromium(path.as_uri(), f"--log-net-log={log}", "--enable-logging=stderr", folder=folder)
    events = json.loads(log.read_text())["events"]
    addresses = [urlsplit(event["params"]["url"]) for event in events if "url" in event.get("params", {})]
    return [line for line in found.stderr.splitlines() if "CONSOLE" in line], {
        address.hostname for address in addresses if address.scheme.startswith("http")
    }


@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_phone_need_not_scroll_the_whole_page_sideways(page, tmp_path, width):
    frame = tmp_path / "frame.html"
    script = "document.title = this.contentDocument.documentElement.scrollWidth"
    frame.write_text(f'<iframe src="{page.path.as_uri()}" width="{width}" height="800" onload="{script}"></iframe>')
    found = chromium(frame.as_uri(), "--allow-file-access-from-files", folder=tmp_path)
    title = found.stdout.partition("<title>")[2].partition("</title>")[0]
    assert 0 < int(title) <= width


def chromium(address: str, *options: str, folder: Path) -> subprocess.CompletedProcess:
    """The page as headless Chromium has it after loading."""
    own = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom")
    return subprocess.run([CHROMIUM, *own, *options, address], capture_output=True, text=True, timeout=120, check=True)


def escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))

"""The pages of reports/: an index that links what is there, and pages that need nothing from elsewhere."""

import re
from pathlib import Path

from troupe.evaluation.pages import write_index, write_page

ELSEWHERE = re.compile(r"(?:src|href)=\"(?:https?:)?//|@import|<script")


def test_the_index_links_every_page_by_its_title(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "report.html").write_text("<!doctype html><title>troupe: moe is the new champion</title>")
    write_page(reports / "studies" / "ladder.html", "From bigram to <GPT>", "<h1>x</h1>")
    index = (reports / "index.html").read_text()
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', index)
    assert links == [
        ("report.html", "troupe: moe is the new champion"),
        ("studies/ladder.html", "From bigram to &lt;GPT&gt;"),
    ]
    assert all((reports / path).is_file() for path, _ in links)


def test_a_page_leads_back_to_the_index_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = tmp_path / "reports" / "studies" / "ladder.html"
    write_page(page, "Ladder", "<p>text</p>")
    up = re.search(r'<a href="([^"]*)">all pages', page.read_text())
    assert up
    assert (page.parent / up[1]).resolve() == (tmp_path / "reports" / "index.html").resolve()
    assert not ELSEWHERE.search(page.read_text())


def test_an_index_of_nothing(tmp_path: Path) -> None:
    write_index(tmp_path / "reports")
    assert "<li>" not in (tmp_path / "reports" / "index.html").read_text()

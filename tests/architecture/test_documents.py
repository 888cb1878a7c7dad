"""Pages lead where they say, and the index of results holds every entry."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = [
    ROOT / "README.md",
    *(page for folder in ("docs", "studies", "benchmarks") for page in (ROOT / folder).rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)")
ROW = re.compile(r"^\| (\S+) \| \[(.*)\]\((\S+)\) \| (.*) \|$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_there(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_index_of_results_has_every_entry_newest_first() -> None:
    rows = ROW.findall((RESULTS / "README.md").read_text(encoding="utf-8"))
    assert sorted(name for _, _, name, _ in rows) == sorted(file.name for file in RESULTS.glob("2*.md"))
    dates = [date for date, *_ in rows]
    assert dates == sorted(dates, reverse=True)
    for date, title, name, conclusion in rows:
        entry = " ".join((RESULTS / name).read_text(encoding="utf-8").split())
        assert name.startswith(date)
        assert entry.startswith(f"# {title} ")
        assert f"**Conclusion.** {conclusion}" in re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", entry)

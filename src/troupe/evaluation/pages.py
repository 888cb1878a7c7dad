"""The HTML pages that lie in reports/: one look, and an index that links what has been run.

index.html is written anew whenever a page is; it lists every page of the folder and of those below it by its title.
"""

import re
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from troupe.files import write_atomic
from troupe.layout import INDEX, REPORTS

TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
BEGINNING = 2**14  # characters of a page among which its title is


@cache
def templates() -> Environment:
    """The templates of this folder, and `page.css`, which they share."""
    folder = Path(__file__).parent
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page whose `body` is HTML already, and the index of the folder reports/ that it lies in."""
    page = templates().get_template("page.html.j2").render(title=title, body=body, up=_up(path))
    write_atomic(path, page.encode())
    write_index(_root(path))


def write_index(folder: Path = REPORTS) -> None:
    """List the pages in `folder` and below it, those of the folder itself first."""
    pages = [page for page in folder.rglob("*.html") if page != folder / INDEX.name]
    ordered = sorted(pages, key=lambda page: (len(page.parts), page))
    rows = [(quote(page.relative_to(folder).as_posix()), _title(page)) for page in ordered]
    index = templates().get_template("index.html.j2").render(rows=rows)
    write_atomic(folder / INDEX.name, index.encode())


def _root(path: Path) -> Path:
    """The folder reports/ above a page, or the page's own folder where there is none."""
    return next((folder for folder in path.parents if folder.name == REPORTS.name), path.parent)


def _up(path: Path) -> str:
    return "../" * (len(path.parent.parts) - len(_root(path).parts)) + INDEX.name


def _title(page: Path) -> str:
    with page.open(encoding="utf-8", errors="replace") as file:
        found = TITLE.search(file.read(BEGINNING))
    return unescape(found[1]) if found else page.stem

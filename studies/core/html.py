"""A study's page as HTML: the same Markdown, its picture inside, and the data behind it to download."""

import base64
import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

PICTURE = re.compile(r'<p><img src="[^"]*" alt="([^"]*)" /></p>')
UP = 'href="../../../'  # from studies/NAME/results to the top; from reports/studies it is a step less


def body_of(markdown: str, svg: str, records: str, data: Path) -> str:
    """The page below its frame: `svg` in place of the link to the picture, described as the link describes it, and
    `records` behind a link that saves them under the name of `data`."""
    found = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown).replace(UP, 'href="../../')
    found = found.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    link = _download(records, data)
    return PICTURE.sub(lambda match: f"{_figure(svg, match[1])}\n{link}", found, count=1)


def _figure(svg: str, described: str) -> str:
    drawn = svg[svg.index("<svg") :]  # without the XML declaration, which HTML does not take
    return f'<figure role="img" aria-label="{described}">{drawn}</figure>'


def _download(records: str, data: Path) -> str:
    content = base64.b64encode(records.encode()).decode()
    name = escape(data.name)
    return (
        '<p class="quiet">The data behind the picture and the tables: '
        f'<a download="{name}" href="data:application/x-ndjson;base64,{content}">{name}</a></p>'
    )

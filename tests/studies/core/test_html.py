"""A study's page as HTML: what was Markdown, a picture inside, data that can be saved."""

import base64
import re
from pathlib import Path

from studies.core.html import body_of

PAGE = """# Title

- machine: one

![loss & "more" over steps](small.svg)

| rung | loss |
|---|---:|
| 1 <bigram> | 2.46 |

See [the words](../../../docs/algorithms/evaluation.md).

    some text
"""
SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg viewBox="0 0 1 1"></svg>\n'
RECORDS = '{"arm": "one", "seed": 1}\n'


def test_the_page_holds_picture_table_and_data() -> None:
    body = body_of(PAGE, SVG, RECORDS, Path("small.jsonl"))
    assert '<figure role="img" aria-label="loss &amp; &quot;more&quot; over steps"><svg viewBox' in body
    assert "<?xml" not in body
    assert "<img" not in body
    assert "1 &lt;bigram&gt;" in body
    assert '<td style="text-align:right">2.46</td>' in body
    saved = re.search(r'download="small.jsonl" href="data:application/x-ndjson;base64,([^"]*)"', body)
    assert saved
    assert base64.b64decode(saved[1]).decode() == RECORDS


def test_links_to_the_documents_lead_there_from_the_folder_of_reports() -> None:
    assert 'href="../../docs/algorithms/evaluation.md"' in body_of(PAGE, SVG, RECORDS, Path("small.jsonl"))

"""Experiments of many training runs, whose figures settle a question: `python -m studies.<name>` writes a page.

`core` is what they have in common, with benchmarks/ too; every other package is one study. As in benchmarks/, each is a
process of its own, so threads are made polite here, before torch is imported.
"""

from troupe import environment
from troupe.stopping import end_at_once, module_started

environment.prepare()
if name := module_started():
    end_at_once(name)

"""Experiments of many training runs, whose figures settle a question: `python -m studies.<name>` writes a page.

As in benchmarks/, each is a process of its own, so threads are made polite here, before torch is imported.
"""

from troupe import environment

environment.prepare()

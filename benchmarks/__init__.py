"""Each module is a process of its own, `python -m benchmarks.<name>`, so threads are made polite here, before torch is
imported: troupe's wait as everybody else's do, who inherit the environment.
"""

from troupe import environment
from troupe.stopping import end_at_once, module_started

environment.prepare()
if name := module_started():
    end_at_once(name)

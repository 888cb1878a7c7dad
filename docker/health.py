"""Exit 0 when all is well, 1 otherwise: the images have no curl.

`health.py ADDRESS` asks whether it answers without an error; `health.py FILE SECONDS`, whether it was written since.
"""

import sys
import time
import urllib.request
from pathlib import Path

if len(sys.argv) == 2:
    urllib.request.urlopen(sys.argv[1], timeout=4).close()
elif time.time() - Path(sys.argv[1]).stat().st_mtime > float(sys.argv[2]):
    sys.exit(f"{sys.argv[1]} is older than {sys.argv[2]} s")

"""Exit 0 when the address given answers without an error, 1 otherwise: the images have no curl."""

import sys
import urllib.request

urllib.request.urlopen(sys.argv[1], timeout=4).close()

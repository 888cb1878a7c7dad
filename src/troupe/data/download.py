"""Public files by digest: from a mirror folder where there is one, else downloaded once and cached."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from troupe.errors import CorpusError

MIRROR_VARIABLE = "TROUPE_MIRROR"  # a folder that holds copies of what would be downloaded
TIMEOUT_S = (5, 20)  # to connect, between two reads


def mirrored(name: str) -> list[Path]:
    """Where the mirror folder would hold the file `name`; nothing if there is no mirror."""
    folder = os.environ.get(MIRROR_VARIABLE)
    return [Path(folder, name)] if folder else []


def fetch(url: str, sha256: str, copies: Sequence[Path], advice: str) -> bytes:
    """The bytes behind `url`, from the first of the local `copies` that exists, else downloaded to the user's cache.

    Raises CorpusError when the digest differs (both digests in the line), or when there is no network (`advice` says
    how to do without).
    """
    path = next((copy for copy in copies if copy.is_file()), None) or _download(url, sha256, advice)
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise CorpusError(f"{path}: its sha256 is {actual}, expected {sha256}; refused")
    return content


def _download(url: str, sha256: str, advice: str) -> Path:
    import pooch  # late: it costs a quarter of a second, and a mirror or the default corpus needs none of it

    try:
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT_S)
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=pooch.os_cache("troupe"), downloader=downloader))
    except ValueError as error:  # pooch's word for a wrong digest; its message holds both
        raise CorpusError(f"{url}: {' '.join(str(error).split())}") from None
    except OSError as error:  # no network, no such page, no permission to write the cache
        raise CorpusError(f"{url}: cannot download ({type(error).__name__}); {advice}") from None

"""What a client of a server sends to be let in; and the token of a workspace, which its own servers ask for."""

import os
from base64 import b64encode
from pathlib import Path
from secrets import token_urlsafe

from filelock import FileLock

from troupe.layout import STATE

TOKEN = STATE / "token"
USER = "troupe"  # the name that goes with the token where a name and a password are asked for
QUERY = "token"  # the parameter of an address that lets a browser in


def token() -> str:
    """The secret of the servers of this workspace (the current folder); it is made if there is none.

    It lies in a file that only its user can read: who can read it may do all that the servers can.
    """
    STATE.mkdir(exist_ok=True)
    with FileLock(f"{TOKEN}.lock"):
        if TOKEN.exists() and (found := TOKEN.read_text(encoding="ascii").strip()):
            if TOKEN.stat().st_mode & 0o077:  # it was copied or restored
                TOKEN.chmod(0o600)
            return found
        made = token_urlsafe(32)
        new = Path(f"{TOKEN}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{made}\n")
        new.replace(TOKEN)
        return made


def with_token(url: str, secret: str) -> str:
    """The address that lets a browser in."""
    return f"{url}/?{QUERY}={secret}"


def basic(user: str, password: str) -> str:
    """The header `Authorization` of who has a name and a password."""
    return f"Basic {base64(f'{user}:{password}')}"


def base64(text: str) -> str:
    """The Base64 of text in UTF-8."""
    return b64encode(text.encode()).decode()

"""Install the locked packages: `python tools/install.py LOG [INDEX]`, run by the Python of the virtual environment.

uv takes some 30 seconds of processor. pip took over 240, and was stopped before its end: it reads the pages of every
index and compiles modules that nobody imports. uv does not read pip's configuration, so it is told what that says of
indexes; where it cannot do the work all the same (no build of it for this machine, an index that only pip can reach),
pip does.
What they print goes to LOG, without the names and passwords of URLs; the terminal shows the phase and the seconds, and
what went wrong. INDEX is one more index.

Only the standard library: nothing is installed yet.
"""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

UV_RELEASE = "uv==0.13.9"
PROJECT = ["--constraint", "constraints.txt", "--editable", ".[dev]"]
# options of pip that hold one value or several: uv's name of each
UV_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
UV_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "timeout": "UV_HTTP_TIMEOUT"}
NOISE = re.compile(r"WARNING: Location '.*' is ignored")  # pip, of every package that one of several indexes lacks
CREDENTIALS = re.compile(r"//[^/\s]+@")  # up to the last @: a password may hold one
PIP = [sys.executable, "-m", "pip"]
UV_PIP = [sys.executable, "-m", "uv", "pip"]
TERMINAL = sys.stdout.isatty()
SECONDS_BETWEEN_LINES = 1.0 if TERMINAL else 30.0
LAST_LINES = 20


def main(log: Path, index: str = "") -> int:
    """Install, check, and return an exit status; 0 when everything that the project requires is there."""
    log.write_text("", encoding="utf-8")
    if (with_uv(log, index) or with_pip(log, index)) and phase("checking", [*PIP, "check"], log):
        return 0
    print(f"The set-up has failed. The end of {log}:", file=sys.stderr)
    print("\n".join(f"  {line}" for line in last_lines(log)), file=sys.stderr)
    return 1


def with_uv(log: Path, index: str) -> bool:
    """Whether uv could be had and has installed the project."""
    options = pip_options()
    arguments = [*uv_arguments(options), *(["--index", index] if index else []), *PROJECT]
    install = [*UV_PIP, "install", "--python", sys.executable, *arguments]
    return phase("fetching uv", [*PIP, "install", UV_RELEASE], log) and phase(
        "installing with uv", install, log, uv_environment(options)
    )


def with_pip(log: Path, index: str) -> bool:
    """Whether pip has installed the project."""
    arguments = [*(["--extra-index-url", index] if index else []), *PROJECT]
    return phase("installing with pip, some minutes", [*PIP, "install", *arguments], log)


def phase(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> bool:
    """Run a command, its output appended to `log`, and return whether it succeeded; shows its name and its seconds.

    When it has ended, however it did, `log` holds no credentials of URLs.
    """
    began, shown = time.monotonic(), -SECONDS_BETWEEN_LINES
    with log.open("a", encoding="utf-8") as file:
        print("$", without_credentials(" ".join(command)), file=file, flush=True)
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        while child.poll() is None:
            seconds = time.monotonic() - began
            if seconds - shown >= SECONDS_BETWEEN_LINES:
                shown = seconds
                show(f"{name} ... {seconds:.0f} s")
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
        log.write_text(without_credentials(log.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")
    show(f"{name}: {'failed' if child.returncode else 'done'} after {time.monotonic() - began:.0f} s", last=True)
    return child.returncode == 0


def without_credentials(text: str) -> str:
    """The text with `//****@` in place of what URLs hold before their host."""
    return CREDENTIALS.sub("//****@", text)


def show(text: str, last: bool = False) -> None:
    """Print a line; on a terminal the next one takes its place, unless it is the last of its phase."""
    print(f"\r  {text:<60}" if TERMINAL else f"  {text}", end="" if TERMINAL and not last else "\n", flush=True)


def pip_options() -> dict[str, str]:
    """pip's options for `pip install`, by name, from its files and its environment; the stronger place wins."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    found = [re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.*)", line) for line in listed.splitlines()]
    order = ("global", "install", ":env:")
    ranked = sorted((match.groups() for match in found if match), key=lambda one: order.index(one[0]))
    return {name: str(ast.literal_eval(value)) for _, name, value in ranked}


def uv_arguments(options: Mapping[str, str]) -> list[str]:
    """What lets uv look where pip's options have pip look, and choose as pip does."""
    # pip takes the best version of any index, uv by itself the first index that has the package at all.
    arguments = ["--index-strategy", "unsafe-best-match"]
    arguments += ["--no-index"] if options.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    for name, option in UV_OPTIONS.items():
        for value in options.get(name, "").split():
            arguments += [option, value]
    return arguments


def uv_environment(options: Mapping[str, str]) -> dict[str, str]:
    """This environment, with what uv takes from there alone of pip's options; what the user has set for uv wins."""
    told = {variable: options[name] for name, variable in UV_VARIABLES.items() if name in options}
    return {**told, **os.environ}


def last_lines(log: Path) -> list[str]:
    """The end of a log, without the lines that mean nothing."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line for line in lines if line and not NOISE.search(line)][-LAST_LINES:]


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:3]))
    except KeyboardInterrupt:
        sys.exit(130)

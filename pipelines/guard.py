"""Stands between a supervisor and its command, so that the command cannot outlive the supervisor, whatever kills it.

Run as `python -I -S guard.py [--stdin FD] COMMAND...`, as the leader of a process group of its own, with a pipe from
the supervisor as standard input that nobody writes to. The pipe ends when the supervisor dies, by kill -9 too; then the
guard kills the whole group: command, children, grandchildren. Should the guard itself be killed, Linux kills the
command (PR_SET_PDEATHSIG); elsewhere the supervisor, if it lives, does. `--stdin` names what the command has for its
standard input, such as a socket to listen on; else that is empty. Standard library only: it starts in 20 ms.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Run the command and return its exit status, 128 + n if signal n ended it."""
    for forwarded in (signal.SIGTERM, signal.SIGINT):
        signal.signal(forwarded, lambda *_: None)  # meant for the command; a handler, unlike SIG_IGN, ends at exec
    words, given = sys.argv[1:], subprocess.DEVNULL
    if words[0] == "--stdin":
        given, words = int(words[1]), words[2:]
    # preexec_fn is safe here: there is no second thread yet.
    command = subprocess.Popen(words, stdin=given, preexec_fn=_die_with_parent)
    threading.Thread(target=_kill_group_at_end_of_input, daemon=True).start()
    status = command.wait()
    return status if status >= 0 else 128 - status


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group_at_end_of_input() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would be held at exit
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

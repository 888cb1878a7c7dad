"""What troupe says when something is wrong with its input: one line, and what to do about it.

TroupeError
├── ParamsError      a parameter is unknown, missing, mistyped or out of range
├── CorpusError      text that cannot be used: missing, empty, not UTF-8, wrong digest
├── ArtifactError    a file that a stage wrote is missing, corrupted or from another run
│   └── UnsupportedError    it is whole, and of a kind that this version does not know any more
├── Diverged         training has gone astray: a figure is not finite, or the gradient has exploded
├── Interrupted      a signal has asked a run to stop, and it has: the message says where the same command begins
├── ProcessFailed    one of the processes that train a model together has ended
├── WorkspaceBusy    another pipeline is running in this workspace
└── RegistryError    the model registry refuses, or its store is broken
    └── RegistryUnreachable    it does not answer; what it lacks is sent later

Every message names the field, file and place where it can. Entry points print it without a traceback and exit non-zero.
"""


class TroupeError(Exception):
    """Base of every error that a user can cause and mend; `exit_code` is the exit status of the process."""

    exit_code = 2


class ParamsError(TroupeError):
    pass


class CorpusError(TroupeError):
    pass


class ArtifactError(TroupeError):
    pass


class UnsupportedError(ArtifactError):
    pass


class Diverged(TroupeError):
    """Only weights of fewer than `since` updates are beyond doubt."""

    def __init__(self, message: str, since: int) -> None:
        super().__init__(message)
        self.since = since


class Interrupted(TroupeError):
    """Ends the process with the status that shells give one that a signal has ended."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class ProcessFailed(TroupeError):
    exit_code = 1  # not the user's to mend: the pipeline tries again


class WorkspaceBusy(TroupeError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class RegistryError(TroupeError):
    pass


class RegistryUnreachable(RegistryError):
    pass

"""What troupe says when something is wrong with its input: one line, and what to do about it.

TroupeError
├── ParamsError      a parameter is unknown, missing, mistyped or out of range
├── CorpusError      text that cannot be used: missing, empty, not UTF-8, wrong digest
├── ArtifactError    a file that a stage wrote is missing, corrupted or from another run
├── WorkspaceBusy    another pipeline is running in this workspace
└── RegistryError    the model registry cannot be reached or refuses

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


class WorkspaceBusy(TroupeError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class RegistryError(TroupeError):
    pass

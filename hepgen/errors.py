"""Every error hepgen raises on purpose: one sentence that names what is wrong and what to do."""


class HepgenError(Exception):
    """Something went wrong in the work; the command line prints the sentence and exits with 1."""

    exit_code = 1


class UsageError(HepgenError, ValueError):
    """Something was asked wrongly: an option, a name or a study file; exit code 2."""

    exit_code = 2


class InputError(HepgenError, ValueError):
    """The events themselves cannot be used: a file, branch, column or weight is not as it must be."""


class ModelFileError(HepgenError):
    """A model file is damaged, altered, too new, or not a hepgen model at all."""


class OutputError(HepgenError):
    """An output exists already or cannot be written; nothing is left under the final name."""


class BackendError(HepgenError, RuntimeError):
    """A kernel backend was asked for by name and is not available here."""


class MissingDependency(HepgenError, ImportError):
    """An optional package is needed; the sentence holds the pip line that brings it."""


class StepError(HepgenError, ArithmeticError):
    """An optimiser cannot make its step: a loss outside its domain, or a number that is not finite; nothing was changed."""


class FitInterrupted(HepgenError):
    """A fit was stopped from the keyboard; the sentence names the checkpoint to resume from."""

    exit_code = 130

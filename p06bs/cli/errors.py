"""What is said when a command fails: one line, and a status that is not 0.

Status 2 is wrong usage, 130 an interrupt, 1 everything else.
"""

import typer

WrongUsage: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for unknown commands and options; it has no public name."""


class UsageError(Exception):
    """Something the user can mend; shown in one line."""


def one_line(error: Exception) -> str:
    """Return what to say of an error; its class only where the message may not be enough."""
    from p06bs.model.binding import BindingError

    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UsageError | BindingError | OSError | RuntimeError | ValueError) and said:
        return said
    return f"{type(error).__name__}: {said} (p06bs --debug shows where)"


def wrong_usage(error: Exception) -> tuple[str, int] | None:
    """Return what to say of a wrong command line, and the status; None for other errors.

    Nothing is left to say where the help was shown instead.
    """
    if not isinstance(error, WrongUsage):
        return None
    said = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if said and context is not None:
        said = f"{said.removesuffix('.')}; see {context.command_path} --help"
    return said, 2

"""Check a NeXus file against the NeXus base classes, with nexusformat."""

import logging
from pathlib import Path


class _Collector(logging.Handler):
    """Collect error messages, each with the field or group it is about."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self._about = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        if record.levelno == logging.CRITICAL:  # nexusformat logs headings at this level
            self._about = message or self._about
        else:
            self.errors.append(f"{self._about}: {message}")


def validate(path: str | Path) -> list[str]:
    """Return what is wrong with a NeXus file; an empty list if nothing is.

    A validation that nexusformat breaks off counts as an error.

    Raises
    ------
    ImportError
        If nexusformat is not installed.
    """
    try:
        from nexusformat.nexus.validate import validate_file
    except ImportError as error:
        raise ImportError(
            "validating NeXus files needs the package nexusformat: pip install nexusformat"
        ) from error
    logger = logging.getLogger("NXValidate")
    collector = _Collector()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers[:] = [collector]
    logger.setLevel(logging.ERROR)
    try:
        counts = validate_file(str(path))
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    if counts is None:
        return [*collector.errors, f"{path}: nexusformat broke off the validation"]
    if counts[1] != len(collector.errors):
        return [*collector.errors, f"{path}: nexusformat counts {counts[1]} errors"]
    return collector.errors

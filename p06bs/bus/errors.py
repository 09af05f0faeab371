"""What is wrong with what came over a socket or from a file."""


class WireError(ValueError):
    """Bytes that are no document, no envelope or no message; says why."""

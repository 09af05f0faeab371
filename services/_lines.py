"""What services log, as it comes."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

TAIL = 1 << 14
"""Bytes at the end of a log in which its last line is looked for."""


class Lines:
    """New lines of several log files, which may be begun anew."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._read = {name: _size(path) for name, path in files.items()}
        self._rest = dict.fromkeys(files, b"")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield ``(service, line)`` of what is new."""
        for name, path in self._files.items():
            size = _size(path)
            if size < self._read[name]:
                self._read[name], self._rest[name] = 0, b""
            if size == self._read[name]:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(self._read[name])
                    data = file.read()
            except OSError:  # it is being replaced: the next look finds another
                continue
            self._read[name] += len(data)
            *lines, self._rest[name] = (self._rest[name] + data).split(b"\n")
            for line in lines:
                yield name, readable(line.decode(errors="replace"))


def readable(line: str) -> str:
    """Return a line of a log as people read it; services write JSON."""
    try:
        said = json.loads(line)
        text = f"{said['time']} {said['level']} {said['logger']}: {said['message']}"
    except (ValueError, TypeError, KeyError):
        return line
    return "\n".join([text, *filter(None, [said.get("exc_info")])])


def last_words(path: Path) -> str:
    """Return what was logged last, in one line: of an error, what it says."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    words = readable(next((line for line in reversed(lines) if line.strip()), "")).splitlines()
    return ": ".join(dict.fromkeys([*words[:1], *words[-1:]]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""Presets: settings of a pipeline in TOML files that people read and edit.

::

    beamtime_id = "11012345"   # runs of this beamtime load it by themselves
    sample = "leaf 3"          # of this sample; with both, only those of both

    unset = ["gain"]           # TOML has no null

    [settings]
    per_live_time = true
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from p06bs.model.documents import Document

SUFFIX = ".toml"
NAME = re.compile(r"\w[\w.+-]{0,99}")


class PresetError(ValueError):
    """A preset that cannot be used; says which, and why."""


@dataclass(frozen=True)
class Preset:
    """Settings under a name.

    Attributes
    ----------
    name : str
    settings : dict
        All settings or some; the others stay as they are in force.
    beamtime_id, sample : str
        Whose runs load it by themselves; "" is anybody's, and with both "" nobody's.
    problem : str
        Why it cannot be used; "" if it can.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    beamtime_id: str = ""
    sample: str = ""
    problem: str = ""

    def fits(self, start: Document) -> int:
        """Return how specifically it is meant for a run: 0 not at all, 3 the most.

        A sample says more than a beamtime, which has many.
        """
        sample = start.get("sample")
        if isinstance(sample, Mapping):
            sample = sample.get("name")
        meant = (self.beamtime_id, self.sample)
        said = (start.get("beamtime_id"), sample)
        if any(m and m != str(s) for m, s in zip(meant, said, strict=True)):
            return 0
        return bool(self.beamtime_id) + 2 * bool(self.sample)


class Presets:
    """The presets of one pipeline: ``NAME.toml`` in a directory, which need not exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def names(self) -> list[str]:
        """What there is, sorted."""
        found = self.directory.glob(f"*{SUFFIX}") if self.directory.is_dir() else ()
        return sorted(path.stem for path in found if NAME.fullmatch(path.stem))

    def __iter__(self) -> Iterator[Preset]:
        """Yield all of them by name, those that cannot be used with the reason."""
        for name in self.names:
            try:
                yield self.read(name)
            except PresetError as error:
                yield Preset(name, problem=str(error))

    def read(self, name: str) -> Preset:
        """Return a preset.

        Raises
        ------
        PresetError
            If there is none, or it cannot be read; names the file.
        """
        path = self._path(name)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = ", ".join(self.names) or "none"
            said = f"no preset {name!r} in {self.directory}; there are: {known}"
            raise PresetError(said) from None
        except (OSError, ValueError) as error:
            raise PresetError(f"{path} cannot be read: {error}") from error
        strange = content.keys() - {"beamtime_id", "sample", "unset", "settings"}
        settings, unset = content.get("settings", {}), content.get("unset", [])
        if strange or not isinstance(settings, dict) or not isinstance(unset, list):
            said = ", ".join(sorted(strange)) or "settings that are no table, or unset that no list"
            raise PresetError(
                f"{path} has {said}; it may have beamtime_id, sample, unset and a table [settings]"
            )
        settings |= dict.fromkeys(map(str, unset))
        meant = {key: content.get(key, "") for key in ("beamtime_id", "sample")}
        for key, value in meant.items():
            if not isinstance(value, str | int):
                raise PresetError(f"{path}: {key} is {value!r}, it must be text")
        return Preset(name, settings, **{key: str(value) for key, value in meant.items()})

    def write(self, preset: Preset) -> Path:
        """Keep a preset; one of the same name is replaced. Return its file.

        Raises
        ------
        PresetError
            If its name cannot name a file, or TOML cannot hold it.
        OSError
            If it cannot be written.
        """
        path = self._path(preset.name)
        meant = {"beamtime_id": preset.beamtime_id, "sample": preset.sample}
        settings = {key: value for key, value in preset.settings.items() if value is not None}
        unset = sorted(preset.settings.keys() - settings.keys())
        try:
            body = tomli_w.dumps({"settings": settings})
        except TypeError as error:
            raise PresetError(f"preset {preset.name} cannot be kept as TOML: {error}") from error
        head = "".join(
            tomli_w.dumps({key: value}) if value else f'# {key} = "..."\n'
            for key, value in meant.items()
        )
        head += tomli_w.dumps({"unset": unset}) if unset else ""
        self.directory.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as file:
            file.write("# Runs of the beamtime and sample that it names load it by themselves.\n")
            file.write(head + "\n" + body)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return path

    def meant_for(self, start: Document) -> tuple[Preset | None, list[str]]:
        """Return the preset that is most specifically meant for a run, and what is to be said:
        of files that cannot be used, and of several that are meant for it alike.
        """
        found = list(self)
        said = [preset.problem for preset in found if preset.problem]
        best = max((preset.fits(start) for preset in found), default=0)
        if not best:
            return None, said
        meant = [p for p in found if not p.problem and p.fits(start) == best]
        if len(meant) > 1:
            names = ", ".join(p.name for p in meant)
            said.append(f"presets {names} are meant for one run alike; {meant[0].name} is used")
        return meant[0], said

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise PresetError(
                f"{name!r} cannot name a preset: letters, digits, and after the first one . + -"
            )
        return self.directory / f"{name}{SUFFIX}"

"""Values of settings as JSON holds them, and paths into them: ``outer.inner``."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from p06bs.model.documents import settings_json
from p06bs.model.modality import ModalitySettings, SettingsError


def plain(settings: ModalitySettings) -> dict[str, Any]:
    """Return settings as JSON holds them."""
    found: dict[str, Any] = json.loads(settings_json(settings))
    return found


def merged(
    settings: ModalitySettings, values: Mapping[str, Any], *, all_there: bool = False
) -> dict[str, Any]:
    """Return settings with values over them; ``outer.inner`` names one entry of a mapping.

    None removes an entry of a table, whose names are anybody's; a field of a model is None then.

    Parameters
    ----------
    all_there : bool
        Whether entries that are to be removed must be there.

    Raises
    ------
    SettingsError
        If what a name leads through is no mapping, or an entry is not there.
    """
    made = plain(settings)
    for key, value in values.items():
        *outer, last = key.split(".")
        at = made
        for step in outer:
            at = at.setdefault(step, {}) if isinstance(at, dict) else at
        if not isinstance(at, dict):
            raise SettingsError(f"{key}: {'.'.join(outer)} is {at!r}, which has no entries")
        if value is not None or _is_model(settings, outer):
            at[last] = value
        elif last in at:
            del at[last]
        elif all_there:
            known = ", ".join(at) or "none"
            raise SettingsError(f"{key}: there is no such entry to remove; there are: {known}")
    return made


def _is_model(settings: ModalitySettings, path: Iterable[str]) -> bool:
    """Return whether what a path leads to has fields, and not entries that anybody names."""
    at: Any = settings
    for step in path:
        at = at.get(step) if isinstance(at, Mapping) else getattr(at, step, None)
    return isinstance(at, BaseModel)


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """Return the value that a path leads to.

    Raises
    ------
    SettingsError
        If there is none; says what there is.
    """
    at: Any = values
    reached = "settings"
    for step in path.split("."):
        if not isinstance(at, Mapping):
            raise SettingsError(f"there is no {path}: {reached} is {at!r}, which has no entries")
        if step not in at:
            known = ", ".join(at) or "nothing"
            raise SettingsError(f"there is no {path}: in {reached} there is {known}")
        at, reached = at[step], step if reached == "settings" else f"{reached}.{step}"
    return at

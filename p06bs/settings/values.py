"""Values of settings as JSON holds them."""

import json
from collections.abc import Mapping
from typing import Any

from p06bs.model.documents import settings_json
from p06bs.model.modality import ModalitySettings, SettingsError


def plain(settings: ModalitySettings) -> dict[str, Any]:
    """Return settings as JSON holds them."""
    found: dict[str, Any] = json.loads(settings_json(settings))
    return found


def merged(settings: ModalitySettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with values over them; ``outer.inner`` names one entry of a mapping.

    Raises
    ------
    SettingsError
        If what a name leads through is no mapping.
    """
    made = plain(settings)
    for key, value in values.items():
        *outer, last = key.split(".")
        at = made
        for step in outer:
            at = at.setdefault(step, {}) if isinstance(at, dict) else at
        if not isinstance(at, dict):
            raise SettingsError(f"{key}: {'.'.join(outer)} is {at!r}, which has no entries")
        at[last] = value
    return made

"""Settings in force: who changed them when, for which run they hold, and presets."""

from p06bs.settings.again import Again
from p06bs.settings.history import SettingsHistory
from p06bs.settings.presets import Preset, PresetError, Presets
from p06bs.settings.store import PipelineSettings

__all__ = [
    "Again",
    "PipelineSettings",
    "Preset",
    "PresetError",
    "Presets",
    "SettingsHistory",
]

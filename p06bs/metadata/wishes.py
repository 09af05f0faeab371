"""What a start document wishes of the pipelines: who is to work on the run, and who not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANALYSIS = "analysis"
"""Field of the start document: which pipelines are to work on the run, or not."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a run wants of pipelines: ``{"pipelines": [...]}`` or ``{"skip": [...]}``, or both.

    Names are those of pipelines or of modalities. What is not as it should be is in `problems`
    and counts as not said: it never keeps a run from being analysed.

    Attributes
    ----------
    only : tuple of str or None
        Nobody else is to work on the run; None if it does not say.
    skip : tuple of str
        These are not to work on it.
    problems : tuple of str
        What cannot be used, in words.
    """

    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> "Analysis":
        """Return what a start document says."""
        said = start.get(ANALYSIS)
        if said is None:
            return cls()
        if not isinstance(said, Mapping):
            return cls(problems=(f"{ANALYSIS} is {_short(said)}; it must be a dict",))
        problems: list[str] = []
        named: dict[str, tuple[str, ...]] = {}
        for key, value in said.items():
            names = (value,) if isinstance(value, str) else value
            if key not in ("pipelines", "skip"):
                problems.append(f"{ANALYSIS}.{key} means nothing; there are pipelines and skip")
            elif not _are_texts(names):
                problems.append(f"{ANALYSIS}.{key} is {_short(value)}; it must be a list of names")
            else:
                named[key] = tuple(names)
        return cls(named.get("pipelines"), named.get("skip", ()), tuple(problems))

    def refusal(self, pipeline: str, modality: str) -> str:
        """Return why a pipeline is not to work on the run; "" if it may."""
        names = {pipeline, modality}
        if named := names.intersection(self.skip):
            return f"the run does not want it: {ANALYSIS}.skip names {min(named)!r}"
        if self.only is not None and not names.intersection(self.only):
            wanted = ", ".join(self.only) or "none"
            return f"the run does not want it: {ANALYSIS}.pipelines names {wanted}"
        return ""


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

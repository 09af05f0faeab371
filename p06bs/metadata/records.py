"""What is known of a beamtime, its people, the sample, the beam and the ring.

Fields that are not named here are kept as they are. All fields may be missing.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from p06bs.metadata.plain import plain
from p06bs.metadata.quantity import Current, ElectronEnergy, Energy, Flux, Length

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm
Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No
Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS = frozenset(_SYMBOLS.split())


def _spellings(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name), name.replace("_", "-"))


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]
"""Text; numbers, such as an id, become text."""


class Record(BaseModel):
    """Base of all: names as ``beamtime_id``, ``beamtimeId`` or ``beamtime-id``."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        alias_generator=AliasGenerator(validation_alias=_spellings),
    )

    def document(self) -> dict[str, Any]:
        """Return what a document holds of it: what is known."""
        made: dict[str, Any] = plain(self.model_dump(exclude_none=True, exclude_defaults=True))
        return made


class Person(Record):
    """Somebody who takes part."""

    username: Text | None = None
    lastname: Text | None = None
    institute: Text | None = None
    email: Text | None = None
    user_id: Text | None = None


class Mount(Record):
    """What holds a sample, and where on it."""

    name: Text | None = None
    position: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, said: Any) -> Any:
        return {"name": said} if isinstance(said, str) else said


class Sample(Record):
    """What is in the beam.

    Raises
    ------
    ValidationError
        If an element is none.
    """

    name: Text | None = None
    uid: Text | None = None
    elements: tuple[str, ...] = Field(default=(), description="symbols, such as Fe")
    mount: Mount | None = None
    thickness: Length | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, said: Any) -> Any:
        if isinstance(said, str):
            return {"name": said}
        if isinstance(said, Mapping) and isinstance(said.get("elements"), str):
            return {**said, "elements": re.findall(r"[^\s,;]+", said["elements"])}
        return said

    @model_validator(mode="after")
    def _elements_are_known(self) -> "Sample":
        if unknown := sorted({*self.elements} - ELEMENTS):
            raise ValueError(f"elements: {', '.join(unknown)} is no chemical symbol")
        return self


class Focus(Record):
    """Size of the beam at the sample, full width at half maximum."""

    horizontal: Length | None = None
    vertical: Length | None = None


class Beam(Record):
    """The beam at the sample."""

    energy: Energy | None = None
    flux: Flux | None = None
    focus: Focus | None = None


class Ring(Record):
    """The storage ring."""

    current: Current | None = None
    energy: ElectronEnergy | None = None
    fill: Text | None = Field(default=None, description="mode, such as 480 bunches")


class Proposal(Record):
    """What the beamtime was granted for."""

    id: Text | None = None
    type: Text | None = None
    title: Text | None = None


MODELS: Mapping[str, type[Record]] = {
    "sample": Sample,
    "beam": Beam,
    "ring": Ring,
    "proposal": Proposal,
}
"""Fields of a start document that have a form."""
IDS = {"beamtime_id", "proposal_id"}


def checked(start: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a start document with all `MODELS` in their units, and what is wrong with it.

    A field that is not as it should be stays as it was given. Ids are text.
    """
    document, problems = dict(start), []
    for key in IDS & start.keys():
        document[key] = _text(start[key])
    for key, model in MODELS.items():
        if key in start:
            try:
                document[key] = model.model_validate(start[key]).document()
            except ValidationError as error:
                problems.append(f"{key} is kept as it was given: {said(error)}")
    return document, problems


def said(error: ValidationError) -> str:
    """Return in one line which fields are wrong and why."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )

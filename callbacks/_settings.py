"""What the settings of several modalities have in common: ranges of numbers, names of axes."""

import re
from collections.abc import Container, Iterable, Mapping
from typing import Annotated

from pydantic import Field

from p06bs.model.modality import RESERVED, Bound, Input

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def check_names(axes: Iterable[str], made: Iterable[str]) -> None:
    """Refuse names of axes that are no identifiers, or clash.

    Parameters
    ----------
    made : iterable of str
        Names of all inputs and outputs that there are because of the axes, each axis once.

    Raises
    ------
    ValueError
        Says which.
    """
    taken = [*made, *RESERVED]
    for name in axes:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or taken.count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of an axis")


def check_columns(names: Iterable[str], taken: Container[str] = ()) -> None:
    """Refuse names that no column of a derived run can have, or that are taken.

    Raises
    ------
    ValueError
        Says which.
    """
    for name in names:
        spoilt = name != name.strip() or bool(set(name) & set("./"))
        if not name or spoilt or name in RESERVED or name in taken:
            raise ValueError(f"{name!r} is no name for a column of a derived run")


def unit_of(axis: str) -> str:
    """Return the unit of the positions of an axis."""
    return "deg" if axis == "rotation" else "um"


def require_inputs(
    setting: str, wanted: Mapping[str, Input], bound: Bound, sought: Container[str] = ()
) -> None:
    """Refuse a setting because of which inputs are wanted that nothing feeds.

    Parameters
    ----------
    sought : container of str
        Inputs of groups that may be absent, because they were looked for when the run was bound.

    Raises
    ------
    ValueError
        Says which.
    """
    missing = [
        name
        for name, i in wanted.items()
        if name not in bound and (name not in sought if i.group else not i.optional)
    ]
    if missing:
        raise ValueError(f"{setting}: need {', '.join(missing)}, which nothing feeds in this run")


def require(bound: Bound, name: str, what: str) -> None:
    """Make sure that an input is there which `what` asks for.

    Raises
    ------
    ValueError
        If it is not.
    """
    if name not in bound:
        raise ValueError(f"{what} needs the input {name!r}, which nothing in this run feeds")

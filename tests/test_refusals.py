"""Settings that are refused: place, value, and what may be there, in words of the settings."""

from contextlib import suppress
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from p06bs import Modality, ModalitySettings
from p06bs.model.modality import SettingsError

Positive = Annotated[float, Field(gt=0)]


class Window(ModalitySettings):
    """A part of the settings."""

    width: Positive
    bits: Annotated[int, Field(ge=2)] | None = None


class Picky(Modality):
    """What has settings of all kinds."""

    class Settings(ModalitySettings):
        """Of all kinds."""

        gain: Positive | tuple[Positive, ...] = 1.0
        names: tuple[str, ...] = ()
        window: Window | None = None
        windows: dict[str, Window] = Field({})
        regions: dict[str, tuple[float, float]] = Field({})

        @field_validator("names")
        @classmethod
        def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
            if "fe" in names:
                raise ValueError("'fe' is no element")
            return names


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"gain": 0},
            "gain: Input should be greater than 0, got 0; allowed: number > 0 or list of number",
        ),
        ({"gain": "x"}, "gain: got 'x'; allowed: number > 0 or list of number > 0"),
        ({"gain": [1, -1]}, "gain.1: Input should be greater than 0, got -1; allowed: number > 0"),
        ({"names": "Fe"}, "names: Input should be a list, got 'Fe'; allowed: list of string"),
        ({"names": ["fe"]}, "names: 'fe' is no element, got ['fe']"),
        (
            {"window": 3},
            "window: Input should be a table, got 3; allowed: table (width, bits) or none",
        ),
        ({"window": {}}, "window.width: Field required; allowed: number > 0"),
        (
            {"windows": {"a": {"width": 1, "bits": 1}}},
            "windows.a.bits: Input should be greater than or equal to 2, got 1; "
            "allowed: integer >= 2 or none",
        ),
        (
            {"windows": {"a": {"width": 1, "x": 2}}},
            "windows.a.x: Extra inputs are not permitted, got 2; there are width, bits",
        ),
        (
            {"regions": {"a": 1}},
            "regions.a: Input should be a list, got 1; allowed: [number, number]",
        ),
        ({"gin": 1}, "gin: Extra inputs are not permitted, got 1; there are gain, names, window, "),
    ],
)
def test_what_is_refused_is_said_in_words(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Picky(**settings)
    assert str(refused.value).startswith(f"settings of picky refused: {said}")


ANYTHING = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(["gain", "names", "window", "windows", "regions"]), ANYTHING)
def test_whatever_is_given_it_is_taken_or_refused(name: str, value: Any) -> None:
    with suppress(SettingsError):
        Picky(**{name: value})

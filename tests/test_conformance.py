"""The author's conformance test finds each kind of violation, and nothing where nothing is."""

import pytest

from p06bs.config import find_modality
from p06bs.model.conformance import check, made_up_columns
from tests import wrong_techniques


@pytest.mark.parametrize(
    "name",
    [
        "counters",
        "encoders",
        "interferometers",
        "positions",
        "region_sums",
        "xrf",
        "tests.techniques:Scale",
        "tests.techniques:Total",
        "tests.techniques:Histogram",
    ],
)
def test_what_is_right_passes(name):
    cls = find_modality(name)
    modality, columns = cls.example() or (cls(), made_up_columns(cls()))
    findings = list(check(modality, columns))
    assert len(findings) >= 7
    assert not [f for f in findings if f.problem]


def test_the_base_of_the_wrong_ones_is_right():
    modality = wrong_techniques.Right()
    assert not [f for f in check(modality, made_up_columns(modality)) if f.problem]


@pytest.mark.parametrize(
    ("name", "failing", "said"),
    [
        ("Writes", "inputs stay untouched", "read-only"),
        ("Forces", "inputs stay untouched", "changed: x"),
        ("Averages", "same results in batches of 1", "y differs in 48 of 48 values, by up to"),
        ("Random", "same results twice", "y differs in"),
        ("Undeclared", "outputs are as declared", "not declared ['z']"),
        ("Misshapen", "outputs are as declared", "made y with shape"),
        ("Drifts", "same results in batches of 7", "y differs"),
        ("Scans", "outputs are as declared", "scan: ValueError: scans made columns other than"),
        ("Folds", "same results in batches of 7", "mean differs in 1 of 1 values"),
        ("Needy", "works without more", "TypeError"),
        ("Prepares", "works without more", "KeyError"),
        ("Refuses", "prepare and outputs", "NotImplementedError"),
        ("Forgets", "settings survive JSON", "their digest changed"),
    ],
)
def test_what_is_wrong_is_found(name, failing, said):
    modality = getattr(wrong_techniques, name)()
    findings = {f.checked: f.problem for f in check(modality, made_up_columns(modality))}
    assert said in findings[failing]

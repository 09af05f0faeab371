"""LIKE of the live tree: as SQL says it, and quick whatever the pattern."""

import re

from hypothesis import given
from hypothesis import strategies as st

from p06bs.server.gate.queries import is_quick
from p06bs.server.tree.search import is_like

TEXTS = st.text("ab%_.", max_size=12)


@given(text=TEXTS, pattern=TEXTS)
def test_like_is_what_sql_says(text, pattern):
    wild = {"%": ".*", "_": "."}
    truth = "".join(wild.get(c) or re.escape(c) for c in pattern)
    assert is_like(text, pattern) == bool(re.fullmatch(truth, text, re.DOTALL))


def test_many_wild_characters_take_no_time():
    # A regular expression of as many would outlast everybody: this test would not end.
    assert not is_like("a" * 200, "%a" * 100 + "b")
    assert is_like("a" * 200 + "b", "%a" * 100 + "%b")


def test_optional_parts_of_a_pattern_count_as_repeats():
    assert is_quick("^scan_.*?7$")
    assert is_quick("(?i)kapton")
    assert not is_quick("^" + ".?" * 22 + ".{10}!")
    assert not is_quick("(a|b){1,9}")

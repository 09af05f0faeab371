"""The same queries find the same runs in memory and in the archive, on either database."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiled.client import from_uri
from tiled.client.utils import ClientError
from tiled.queries import (
    AccessTagsFilter,
    Comparison,
    Contains,
    Eq,
    FullText,
    In,
    Key,
    KeyPresent,
    KeysFilter,
    Like,
    NotEq,
    NotIn,
    QueryValueError,
    Regex,
    SpecsQuery,
    StructureFamilyQuery,
)

from p06bs.server.sink.sink import Sink
from p06bs.server.tree.search import condition
from p06bs.server.tree.words import holds, parse, words_of
from tests.archives import DATABASES, KEY, place, running_postgres  # noqa: F401
from tests.documents import raw_run

STARTS = [
    {
        "scan_id": 1, "plan_name": "scan", "proposal_id": "I-1", "temperature": 10,
        "note": "Dark-field of an old_Leaf 50% off", "tags": ["fly", "xrf"], "good": True,
        "sample": {"name": "Leaf A", "elements": ["Fe", "C"]},
    },
    {
        "scan_id": 2, "plan_name": "count", "proposal_id": 17, "temperature": 2.5,
        "note": "wörd, common", "tags": ["flying"], "good": False, "sample": "Leaf B",
        "original_run_uid": "raw", "comment": None,
    },
    {
        "scan_id": 3, "plan_name": "Scan", "temperature": "cold", "note": 5,
        "tags": [1, 2, True], "good": 1, "sample": {"name": "steel", "elements": ["Cr"]},
        "empty": {}, "none": [],
    },
    {"scan_id": 4, "plan_name": "grid_scan", "temperature": -3, "tags": "fly", "good": "yes"},
]  # fmt: skip

QUERIES = [
    # Below a number, a text and a list there is nothing.
    (Key("start.time.x") == 1, []),
    (Key("start.time.x.y") > 1, []),
    (Key("start.note.x") == "a", []),
    (Key("start.tags.0") == "fly", []),
    (KeyPresent("start.time.x"), []),
    (KeyPresent("start.time.x", exists=False), [1, 2, 3, 4]),
    (Eq("start.plan_name", "scan"), [1]),
    (Eq("start.scan_id", 3.0), [3]),
    (Eq("start.temperature", 10.0), [1]),
    (Eq("start.temperature", "10"), []),
    (Eq("start.temperature", "cold"), [3]),
    (Eq("start.note", 5), [3]),
    (Eq("start.good", True), [1]),
    (Eq("start.good", 1), [3]),
    (Eq("start.proposal_id", 17), [2]),
    (Eq("start.sample", "Leaf B"), [2]),
    (Eq("start.comment", None), []),
    (Eq("start.scan_id", None), []),
    (NotEq("start.temperature", 10), [2, 4]),
    (NotEq("start.temperature", "warm"), [3]),
    (NotEq("start.proposal_id", "I-2"), [1]),
    (NotEq("start.proposal_id", 18), [2]),
    (NotEq("start.good", False), [1]),
    (NotEq("start.comment", "x"), []),
    (Comparison("gt", "start.temperature", 2), [1, 2]),
    (Comparison("le", "start.temperature", 2.5), [2, 4]),
    (Comparison("gt", "start.temperature", "a"), [3]),
    (Comparison("ge", "start.plan_name", "grid"), [1, 4]),
    (Comparison("lt", "start.sample", 5), []),
    (Comparison("gt", "start.scan_id", "1"), []),
    (In("start.temperature", [10, "cold"]), [1, 3]),
    (In("start.plan_name", ["scan", "count"]), [1, 2]),
    (In("start.plan_name", ["scan", 5]), [1]),
    (In("start.temperature", []), []),
    (NotIn("start.temperature", [10, 11]), [2, 4]),
    (NotIn("start.temperature", [10, "warm"]), [2, 3, 4]),
    (NotIn("start.temperature", []), [1, 2, 3, 4]),
    (NotIn("start.plan_name", ["scan"]), [2, 3, 4]),
    (Contains("start.tags", "fly"), [1, 4]),
    (Contains("start.tags", "ly"), [4]),
    (Contains("start.tags", 1), [3]),
    (Contains("start.tags", True), [3]),
    (Contains("start.sample.elements", "Fe"), [1]),
    (Contains("start.note", "50%"), [1]),
    (Contains("start.note", "5_%"), []),
    (Contains("start.note", "DARK"), []),
    (Contains("start.sample.name", "eaf"), [1]),
    (Like("start.note", "%field%"), [1]),
    (Like("start.note", "%FIELD%"), []),
    (Like("start.note", "5"), []),
    (Like("start.plan_name", "_can"), [1, 3]),
    (Regex("start.plan_name", "^s.an$"), [1]),
    (Regex("start.plan_name", "SCAN", case_sensitive=False), [1, 3, 4]),
    (Regex("start.note", r"\d\d% (off|on)"), [1]),
    (Regex("start.temperature", "1|cold"), [3]),
    (Regex("start.time.x", "."), []),
    (KeyPresent("start.comment"), [2]),
    (KeyPresent("start.empty"), [3]),
    (KeyPresent("start.none"), [3]),
    (KeyPresent("start.sample.elements"), [1, 3]),
    (KeyPresent("start.proposal_id"), [1]),
    (KeyPresent("start.sample.name", exists=False), [2, 4]),
    (FullText("leaf"), [1, 2]),
    (FullText("LEAF -steel"), [1, 2]),
    (FullText("dark-field"), [1]),
    (FullText('"field of an"'), [1]),
    (FullText('"field an"'), []),
    (FullText("wörd common"), [2]),
    (FullText("wör*"), [2]),
    (FullText("wör"), []),
    (FullText("cold OR flying"), [2, 3]),
    (FullText("grid"), [4]),
    (FullText("leaf steel"), []),
    (KeysFilter(["nothing"]), []),
    (StructureFamilyQuery("container"), [1, 2, 3, 4]),
    (StructureFamilyQuery("array"), []),
    (SpecsQuery(["BlueskyRun"]), [1, 2, 3, 4]),
    (SpecsQuery(["BlueskyRun"], ["BlueskyRun"]), []),
    (SpecsQuery(["other"]), []),
    (AccessTagsFilter(["a"]), []),
]  # fmt: skip

WRONG = [
    (Regex("start.plan_name", "("), "pattern is none"),
    (Regex("start.plan_name", "(a+)+$"), "may take too long"),
    (Eq("start.tags", ["fly"]), "nothing to compare with"),
    (NotEq("start.comment", None), "nothing to compare with"),
    (Comparison("lt", "start.temperature", {"a": 1}), "nothing to compare with"),
    (In("start.tags", [["fly"]]), "nothing to compare with"),
    (NotIn("start.temperature", list(range(1001))), "at most 1000 values"),
    (Contains("start.sample", {"name": "x"}), "nothing to compare with"),
    (Eq("start.scan_id", 2**70), "at most 64 bits"),
    (Eq('a"b', 1), "no key of metadata"),
    (FullText("-leaf"), "add a word that must"),
    (FullText("."), "no word to search for"),
]


@pytest.fixture(scope="module", params=DATABASES)
def trees(request, tmp_path_factory, running_postgres):  # noqa: F811
    here = place(request.param, tmp_path_factory.mktemp("queries"), running_postgres)
    sink = Sink(50_000_000)
    for start in STARTS:
        documents = raw_run({"x": np.arange(3)}, **start)
        documents[0][1]["time"] = float(start["scan_id"])
        here.write(documents)
        for name, document in documents:
            sink(name, document)
    here.ingest()
    with here.served(sink=sink) as url:
        client = from_uri(url, api_key=KEY)
        yield client["live"], client["archive"]
        client.context.close()


@pytest.mark.parametrize(("query", "want"), QUERIES, ids=[str(query) for query, _ in QUERIES])
def test_both_trees_find_the_same_runs(trees, query, want):
    for tree in trees:
        found = tree.search(query)
        assert [run.start["scan_id"] for run in found.values()] == want
        assert len(found) == len(want)


@pytest.mark.parametrize(("query", "why"), WRONG, ids=[str(query)[:60] for query, _ in WRONG])
def test_both_trees_refuse_the_same_queries(trees, query, why):
    said = []
    for tree in trees:
        with pytest.raises(ClientError, match=why) as refused:
            len(tree.search(query))
        said.append((refused.value.response.status_code, refused.value.response.json()))
    assert said[0] == said[1]
    assert said[0][0] == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("[keys_filter][condition][keys]=0", 400),
        ('[keys_filter][condition][keys]=["primary"]', 200),
        ("[eq][condition][key]=time.x&filter[eq][condition][value]=1", 200),
        ("[fulltext][condition][text]=-", 400),
    ],
)
def test_a_run_and_the_top_are_searched_in_the_same_way(trees, query, status):
    run = trees[0].values().first()
    for where in (run.item["links"]["search"], f"{run.context.api_uri}search/"):
        answer = run.context.http_client.get(f"{where}?filter{query}")
        assert answer.status_code == status, where


WORDS = st.lists(st.text("aB ä_-.7", max_size=4), max_size=5).map(" ".join)


@given(text=WORDS, search=st.text('aBä7 "|-*', max_size=8))
def test_a_search_finds_what_its_words_say(text, search):
    try:
        terms = parse(search)
    except QueryValueError:
        return
    joined = " " + " ".join(words_of(text)) + " "

    def there(term):
        wanted = " " + " ".join(words_of(term.text)) + ("" if term.begins else " ")
        return (wanted in joined) != term.absent

    want = any(all(there(term) for term in alternative) for alternative in terms)
    assert holds(terms, {"start": {"note": [text, 7]}}) == want


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)


class Child:
    structure_family, specs = "container", ()

    def __init__(self, metadata):
        self._metadata = metadata

    def metadata(self):
        return self._metadata


@given(
    metadata=st.dictionaries(st.sampled_from("ab"), VALUES),
    key=st.sampled_from(["a", "b", "a.a", "a.b.a"]),
    value=VALUES,
    kind=st.sampled_from([Eq, NotEq, Contains, lambda k, v: Comparison("lt", k, v),
                          lambda k, v: In(k, [v]), lambda k, v: NotIn(k, [v])]),
)  # fmt: skip
def test_any_query_of_any_metadata_is_answered_or_refused(metadata, key, value, kind):
    try:
        test = condition(kind(key, value))
    except QueryValueError:
        return
    assert test("k", Child(metadata)) in (True, False)

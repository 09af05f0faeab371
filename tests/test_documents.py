"""Uids: deterministic, and different for different identities and runs, in any batch."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.documents import event_uids, run_uid

names = st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=40, unique=True)


@given(names, st.integers(1, 10))
def test_an_event_has_its_uid_whatever_batch_it_is_in(identities, size):
    whole = event_uids("run", identities)
    cuts = [identities[i : i + size] for i in range(0, len(identities), size)]
    assert [uid for cut in cuts for uid in event_uids("run", cut)] == whole
    assert len(set(whole)) == len(identities)
    assert not set(whole) & set(event_uids("other run", identities))
    assert all(len(uid) == 32 for uid in whole)


def test_uids_of_a_long_run_do_not_collide_even_when_identities_are_alike():
    identities = [f"datum/{i}" for i in range(200_000)] + [
        str(uuid.UUID(int=i)) for i in range(100_000)
    ]
    uids = event_uids("run", identities)
    assert len(set(uids)) == len(identities)


def test_uids_are_the_same_for_ever():
    assert event_uids("run", ["a", "datum/17"]) == [
        "35b0c0c18b61d30ba730bf5b91fa8388",
        "466b296b0d808fcea118fe6a17da3cef",
    ]
    common = {"modality": "m", "version": "1", "digest": "d", "inputs": {}}
    assert run_uid("raw", **common) == run_uid("raw", **common)
    others = [
        run_uid("raw2", **common),
        run_uid("raw", **{**common, "version": "2"}),
        run_uid("raw", **{**common, "digest": "e"}),
        run_uid("raw", **common, reprocessing=1),
    ]
    assert len({run_uid("raw", **common), *others}) == 5

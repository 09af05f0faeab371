"""Files that are late: one look at a time, everything at once when they are there."""

from p06bs.pipeline.late import AT_ONCE, RETRY, Late

PLACE = "file:///data/frames.h5#/entry/data"


def test_one_batch_looks_at_a_file_for_all_that_wait():
    late: Late[int] = Late(10.0)
    for number in range(20, 0, -1):
        late.report(number, PLACE, (0, 0), 0.0)
    assert late.due(0.0) == []
    assert late.due(RETRY) == [1]  # the one that is needed first
    assert late.due(RETRY) == []
    late.report(1, PLACE, (0, 0), RETRY)
    assert late.due(2 * RETRY) == [1]
    late.done(1)
    assert late.due(2 * RETRY) == list(range(2, 2 + AT_ONCE))
    assert late.waiting == 19 - AT_ONCE


def test_a_file_that_does_not_grow_is_given_up_for_all():
    late: Late[int] = Late(10.0)
    for number in range(3):
        late.report(number, PLACE, (5, 100), 0.0)
    now = 0.0
    while not late.is_final(0):
        now += RETRY
        for number in late.due(now):
            late.report(number, PLACE, (5, 100), now)
        assert now < 11
    assert now > 10
    assert sorted(late.due(now)) == [0, 1, 2]
    assert late.waiting == 0
    assert all(late.is_final(number) for number in range(3))
    late.report(3, PLACE, (5, 100), now)  # no waiting for what was given up
    assert late.due(now) == [3]
    assert late.is_final(3)
    late.report(4, PLACE, (6, 100), now)  # it grows again
    assert not late.is_final(4)
    for number in range(5):
        late.done(number)
    assert not late.is_final(0)


def test_progress_begins_the_wait_anew():
    late: Late[int] = Late(10.0)
    for second in range(100):
        late.report(1, PLACE, (second, 0), float(second))
        assert late.due(second + RETRY) == [1]
        assert not late.is_final(1)


def test_a_run_that_is_over_holds_up_nobody():
    late: Late[tuple[str, int]] = Late(10.0)
    for run in ("a", "b"):
        for number in range(3):
            late.report((run, number), PLACE, (0, 0), 0.0)
    late.leave({("a", number) for number in range(3)})
    assert late.due(RETRY) == [("b", 0)]
    late.leave({("b", number) for number in range(3)})
    assert late.waiting == 0
    assert late._files == {}


def test_a_file_that_was_late_once_may_be_late_again():
    late: Late[int] = Late(10.0)
    late.report(1, PLACE, (-1, -1), 0.0)
    assert late.due(RETRY) == [1]
    late.done(1)  # its rows came
    late.report(2, PLACE, (-1, -1), 60.0)  # cannot be opened for a moment
    assert not late.is_final(2)
    assert late.due(60.0 + RETRY) == [2]
    late.report(2, PLACE, (-1, -1), 70.5)
    assert late.is_final(2)

"""Questions to a service and its answers, whatever these are."""

import pytest

from p06bs.bus import enquiry
from p06bs.bus.control import Control, RefusedError, ask, result_of
from p06bs.bus.errors import WireError
from p06bs.server.services import _health


def refusing(error):
    def refuse():
        raise error

    return refuse


def test_a_service_answers_whatever_it_met_before(tmp_path):
    odd = FileNotFoundError(2, "no such file", "\udcff.h5")  # as the file system has it
    verbs = {
        "silent": refusing(KeyError()),
        "odd": refusing(odd),
        "heavy": object,
        "well": lambda: 1,
    }
    with Control(verbs, f"ipc://{tmp_path}/control") as control:
        for verb, said in (
            ("silent", "^$"),
            ("odd", r"FileNotFoundError: .*no such file"),
            ("heavy", "not.*serializable"),
        ):
            with pytest.raises(RefusedError, match=said):
                ask(control.address, verb)
        assert ask(control.address, "well") == 1


@pytest.mark.parametrize(
    "answer", [b"\xc1", b"\x01", enquiry.packed(None), enquiry.packed(1, "ok")]
)
def test_what_is_no_answer_is_said(answer):
    with pytest.raises(WireError):
        result_of(answer)


@pytest.mark.parametrize(
    "said", [None, 1, "well", [], {}, {"healthy": True}, {"healthy": True, "failed": 1}]
)
def test_one_odd_answer_does_not_hide_the_others(said):
    assert _health(said) == {"healthy": False, "failed": ["its answer is none"]}

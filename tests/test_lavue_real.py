"""The real LaVue shows what we send: driven and read through its own Tango device."""

from contextlib import ExitStack

import numpy as np
import pytest

from p06bs import maps_of
from p06bs.adapters.lavue import command, configure
from tests.documents import raw_run
from tests.lavue_site import Line, bridge, environment, lavue
from tests.online import beamline
from tests.tango_site import wait
from tests.test_lavue import NX, NY, PLAN, VALUES, truth

pytestmark = pytest.mark.slow
AREA = {"dimensions": [[["px"], "primary"], [["py"], "primary"]]}
SPIRAL = {
    "px": np.array([0.0, 4.0, -4.0, 8.0, -8.0]),
    "py": np.array([0.0, 3.0, 5.0, -7.0, -8.0]),
    "i0": np.array([1, 20, 300, 4000, 50000]),
}


@pytest.fixture(scope="module")
def _installed():
    try:
        environment()
    except ConnectionError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_installed")
@pytest.mark.timeout(300)
def test_lavue_shows_the_running_scan_and_follows_the_settings(tmp_path):
    raw = raw_run({"x": VALUES, "i0": 10 * VALUES}, units={"x": "counts"}, **PLAN)
    (head, halfway), (rest, stop) = (raw[:2], raw[2:8]), (raw[8:-1], raw[-1])
    half = np.where(truth() <= 6, truth(), 0)
    regions = [(0, 0, NX - 1, NY - 1), (1, 0, 2, 1), (3, 1, 3, 1)]

    def sums(shown):
        return [shown[y0 : y1 + 1, x0 : x1 + 1].sum() for x0, y0, x1, y1 in regions]

    configure(tmp_path)
    with (
        beamline(tmp_path, [Line(inputs={"x": "x"})]) as (served, publish, _),
        ExitStack() as first,
    ):
        service = first.enter_context(bridge(f"ipc://{tmp_path}/out", tmp_path / "log"))
        starting = command(service.addresses["lavue"], tmp_path)
        with lavue(starting, tmp_path, tmp_path) as shown:
            # There is nothing yet. Then it is the first of the list, which is raw as long as
            # nothing is derived.
            for document in (*head, *halfway):
                publish(*document)
            wait(lambda: shown.topic in ("line.Fe_K|", "raw.i0|", "raw.x|"))
            shown.look_at("line.Fe_K|")
            wait(lambda: shown.topic == "line.Fe_K|")
            assert shown.state()["scaling"] == "linear"
            shown.sums(*regions)
            wait(lambda: shown.values == sums(half))

            # Iron is not made any more, so that LaVue goes on to what is first now.
            served.change("line", {"line": "Cu_K"}, "Ada")
            for document in rest:
                publish(*document)
            wait(lambda: shown.topic == "line.Cu_K|")
            publish(*stop)
            wait(lambda: shown.values == sums(truth() - half))

            # Scattered points, with gaps between them, and integers.
            spiral = raw_run(SPIRAL, plan_name="spiral", hints=AREA)
            for document in spiral:
                publish(*document)
            sown = np.nan_to_num(maps_of(spiral)["i0"].values)
            shown.look_at("raw.i0|")
            wait(lambda: shown.topic == "raw.i0|")
            shown.sums((0, 0, sown.shape[1] - 1, sown.shape[0] - 1))
            wait(lambda: shown.values == [sown.sum()])

            # LaVue outlives a bridge. Then there is a curve: the scan goes along a line.
            address = service.addresses["lavue"]
            first.close()
            with bridge(f"ipc://{tmp_path}/out", tmp_path / "log", address=address):
                line = {"i0": np.arange(5), "x": np.arange(5.0) ** 2}
                for document in raw_run(line, hints={"dimensions": [[["x"], "primary"]]}):
                    publish(*document)
                shown.sums((1, 0, 3, 0))
                wait(lambda: shown.values == [6.0])

"""NeXus files of real and composed runs: valid, lossless, and open as the right plot."""

import json
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from ophyd import Component, Device, Signal
from ophyd.sim import SynAxis
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider

from p06bs import maps_of, process
from p06bs.callbacks.positions import Positions
from p06bs.callbacks.xrf import RegionSums
from p06bs.metadata.recorder import MetadataRecorder
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import FluorescenceDetector
from p06bs.sim.phantom import Phantom
from p06bs.sim.stage import TriggerBox
from p06bs.writers.nexus import Serializer, export
from p06bs.writers.validate import validate
from tests.documents import raw_run
from tests.nexus_runs import (
    SHAPE,
    check_lossless,
    derived_run,
    frames,
    run,
    run_with_frames,
    stage,
    text,
    write,
)
from tests.test_run_maps import PLANS
from tests.test_server_maps import (
    MOTORS,
    NX,
    NY,
    RASTER,
    Writer,
    axes_and_detector,
    corrected,
    nominal,
    phantom,
    xrf,
)


class Odd(Device):
    """A device whose readings are not only floats."""

    image = Component(Signal, value=np.arange(12, dtype=np.uint16).reshape(3, 4), kind="hinted")
    label = Component(Signal, value="häm α", kind="normal")
    shutter = Component(Signal, value=True, kind="normal")
    number = Component(Signal, value=3, kind="hinted")
    gain = Component(Signal, value=1.5, kind="config")
    cable = Component(Signal, value=7, kind="omitted")


def test_scan_with_baseline_images_text_and_flags(tmp_path: Path) -> None:
    motor, det = stage()
    odd, other = Odd(name="odd-1"), SynAxis(name="2nd stage")

    def per_step(detectors: Any, step: Any, pos_cache: Any) -> Any:
        yield from bps.configure(odd, {"gain": 10.0 + step[motor]})
        yield from bps.one_nd_step(detectors, step, pos_cache)

    md = {"sample": {"name": "Fe", "mass": 2.5}}
    scan = bp.scan([det, odd], motor, -2, 2, 7, md=md, per_step=per_step)
    documents = run(MetadataRecorder([other, motor, odd])(scan))
    path = write(documents, tmp_path)
    assert path == tmp_path / f"{documents[0][1]['uid']}.nxs"
    with h5py.File(path) as file:
        assert file.attrs["default"] == "entry"
        plot = file["entry"][file["entry"].attrs["default"]]
        assert plot.attrs["signal"] == "det"
        assert list(plot.attrs["axes"]) == ["motor"]
        np.testing.assert_array_equal(plot["motor"][...], np.linspace(-2, 2, 7))
        primary = file["entry/bluesky/streams/primary/data"]
        assert primary["odd_1_image"].dtype == np.uint16
        assert primary["odd_1_shutter"].dtype == bool
        assert primary["odd_1_number"].dtype == np.int64
        assert text(file, "entry/sample/name") == "Fe"
        assert text(file, "entry/title") == f"scan {documents[0][1]['scan_id']}"
        assert text(file, "entry/entry_identifier_uuid") == documents[0][1]["uid"]
        assert text(file, "entry/start_time").endswith("+00:00")
        assert file["entry/instrument/motor"].attrs["NX_class"] == "NXpositioner"
        # The instrument links the columns, it does not copy them: first those of the scan.
        motor_, odd_ = file["entry/instrument/motor"], file["entry/instrument/odd_1"]
        baseline = file["entry/bluesky/streams/baseline/data"]
        assert motor_["value"] == motor_["columns/motor"] == primary["motor"]
        assert motor_["columns/motor_1"] == baseline["motor"]
        # The newest configuration of the scan, not that which the baseline began with; and what
        # the baseline alone has.
        assert odd_["configuration/odd_1_gain"][()] == 12.0
        assert odd_["configuration/odd_1_cable"][()] == 7
        assert file["entry/instrument/_2nd_stage/configuration/_2nd_stage_velocity"][()] == 1


def test_count_and_a_run_without_events(tmp_path: Path) -> None:
    _, det = stage()
    counted = write(run(bp.count([det], 3)), tmp_path)
    with h5py.File(counted) as file:
        data = file["entry/data"]
        assert list(data.attrs["axes"]) == ["time"]
        assert data["time"].attrs["units"] == "s"

    def nothing() -> Any:
        yield from bps.open_run()
        yield from bps.close_run()

    empty = write(run(nothing()), tmp_path)
    with h5py.File(empty) as file:
        assert "default" not in file["entry"].attrs


@pytest.mark.parametrize("snake", [False, True])
def test_a_grid_scan_opens_as_a_map(tmp_path: Path, snake: bool) -> None:
    y, x = SynAxis(name="y"), SynAxis(name="x")

    class Product(Device):
        value = Component(Signal, kind="hinted")

        def trigger(self) -> Any:
            self.value.put(10 * y.position + x.position)
            return super().trigger()

    md = {"process": "annealed", "devices": {"p": "fluorescence", "y": {"role": "position_y"}}}
    axes = (y, 0, 2, 3, x, 0, 4, 5)
    documents = run(bp.grid_scan([Product(name="p")], *axes, snake_axes=snake, md=md))
    with h5py.File(write(documents, tmp_path)) as file:
        maps = file["entry"][file["entry"].attrs["default"]]
        assert maps.attrs["signal"] == "p_value"
        assert list(maps.attrs["axes"]) == ["y", "x"]
        assert (maps.attrs["y_indices"], maps.attrs["x_indices"]) == (0, 1)
        expected = 10 * maps["y"][...][:, None] + maps["x"][...]
        np.testing.assert_array_equal(maps["p_value"][...], expected)
        assert maps["p_value"].compression == "gzip"
        assert file["entry/instrument/p"].attrs["NX_class"] == "NXdetector"
        assert "process" not in file["entry"]


def test_a_rewind_keeps_all_rows_and_shows_the_newest(tmp_path: Path) -> None:
    motor, det = stage()
    paused = []

    def per_step(detectors: Any, step: Any, pos_cache: Any) -> Any:
        yield from bps.checkpoint()
        yield from bps.mv(motor, step[motor])
        yield from bps.trigger_and_read([*detectors, motor])
        if len(paused) == 0 and step[motor] == 3:
            paused.append(True)
            yield from bps.pause()

    documents = run(
        bp.list_scan([det], motor, [1, 2, 3, 4, 5], per_step=per_step), lambda RE: RE.resume()
    )
    seq_nums = [d["seq_num"] for n, d in documents if n == "event"]
    assert len(seq_nums) > len(set(seq_nums)) == 5
    with h5py.File(write(documents, tmp_path)) as file:
        uids = [d["uid"] for n, d in documents if n == "event"]
        newest = dict(zip(seq_nums, uids, strict=True))
        events = file["entry/bluesky/streams/primary"]
        assert len(events["uid"]) == len(uids)
        times = dict(zip(events["uid"].asstr()[...], events["time"][...], strict=True))
        assert sorted(times) == sorted(uids)
        np.testing.assert_array_equal(file["entry/data/motor"][...], [1, 2, 3, 4, 5])
        column = dict(zip(uids, events["data/det"][...], strict=True))
        expected = [column[newest[n]] for n in range(1, 6)]
        np.testing.assert_array_equal(file["entry/data/det"][...], expected)


@pytest.mark.logs_errors
def test_an_aborted_run_is_complete(tmp_path: Path) -> None:
    motor, det = stage()

    def plan() -> Any:
        yield from bps.open_run()
        for position in (1.0, 2.0):
            yield from bps.mv(motor, position)
            yield from bps.trigger_and_read([det, motor])
        yield from bps.pause()

    documents = run(plan(), lambda RE: RE.abort("beam lost"))
    with h5py.File(write(documents, tmp_path)) as file:
        assert file["entry/bluesky"].attrs["exit_status"] == "abort"
        assert json.loads(text(file, "entry/bluesky/stop"))["reason"] == "beam lost"
        assert len(file["entry/bluesky/streams/primary/uid"]) == 2


def test_frames_are_linked_with_their_row_map(tmp_path: Path) -> None:
    images = frames(tmp_path / "raw dir")
    documents = run_with_frames((tmp_path / "raw dir" / "det.h5").as_uri())
    path = write(documents, tmp_path / "nexus", tree=tmp_path)
    with h5py.File(path) as file:
        external = file["entry/bluesky/streams/frames/external/cam_image"]
        assert external.attrs["data_key"] == "cam-image"
        np.testing.assert_array_equal(external["indices"][...], [[0, 2], [2, 6]])
        np.testing.assert_array_equal(external["seq_nums"][...], [[1, 3], [3, 7]])
        link = external.get("frames_0", getlink=True)
        assert (link.filename, link.path) == ("../raw dir/det.h5", "/entry/data")
        assert file["entry/instrument/cam"].attrs["NX_class"] == "NXdetector"
        np.testing.assert_array_equal(file["entry/instrument/cam/data"][...], images)
    # The whole tree moves, and the relative link goes with it.
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    with h5py.File(moved / "nexus" / path.name) as file:
        np.testing.assert_array_equal(file["entry/instrument/cam/data"][...], images)
    moved.rename(tmp_path)


def test_links_out_of_the_tree_are_absolute(tmp_path: Path) -> None:
    frames(tmp_path / "raw")
    documents = run_with_frames((tmp_path / "raw" / "det.h5").as_uri())
    with h5py.File(write(documents, tmp_path / "nexus")) as file:
        link = file["entry/bluesky/streams/frames/external/cam_image"].get("frames_0", getlink=True)
        assert link.filename == str(tmp_path / "raw" / "det.h5")


def test_frames_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    frames(tmp_path, "other.h5")
    for number, (uri, said) in enumerate(
        {
            (tmp_path / "gone.h5").as_uri(): "gone.h5 cannot be opened",
            "s3://bucket/det.h5": "only file: URIs",
        }.items()
    ):
        path = write(run_with_frames(uri), tmp_path / f"nexus{number}")
        with h5py.File(path) as file:
            external = file["entry/bluesky/streams/frames/external/cam_image"]
            assert said in external["frames_0_not_linked"].asstr()[()]
            assert "frames_0" not in external
            assert "data" not in file["entry/instrument/cam"]
            np.testing.assert_array_equal(external["indices"][...], [[0, 2], [2, 6]])
    documents = run_with_frames((tmp_path / "other.h5").as_uri(), mimetype="image/tiff")
    with h5py.File(write(documents, tmp_path / "tiff")) as file:
        external = file["entry/bluesky/streams/frames/external/cam_image"]
        assert "only HDF5 is supported" in external["frames_0_not_linked"].asstr()[()]


def test_frames_in_a_file_that_is_still_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "det.h5", "w", libver="latest") as detector:
        data = detector.create_dataset("entry/data", (6, 4, 5), "u2", maxshape=(None, 4, 5))
        detector.swmr_mode = True
        data[...] = 7
        data.flush()
        documents = run_with_frames((tmp_path / "det.h5").as_uri())
        (path,) = export(documents, tmp_path / "nexus", tree=tmp_path)["all"]
    assert validate(path) == []
    with h5py.File(path) as file:
        assert (file["entry/instrument/cam/data"][...] == 7).all()


def test_a_derived_run_opens_as_maps(tmp_path: Path) -> None:
    size = SHAPE[0] * SHAPE[1]
    truth = np.arange(1.0, size + 1).reshape(SHAPE)
    acquired = truth.copy()
    acquired[1] = acquired[1, ::-1]
    rows = [(n + 1, float(v), True) for n, v in enumerate(acquired.ravel())]
    # Points 6 and 7 come again after a rewind; point 3 is invalid, point 12 never comes.
    rows = [*rows[:2], (3, 0.0, False), *rows[3:5], (6, -1.0, True), (7, 0.0, False), *rows[5:-1]]
    documents = derived_run(rows, revise_after=5)
    with h5py.File(write(documents, tmp_path)) as file:
        assert file["entry"].attrs["default"] == "maps"
        maps = file["entry/maps"]
        assert maps.attrs["signal"] == "Fe_K"
        assert list(maps.attrs["auxiliary_signals"]) == ["Cu_K"]
        assert list(maps.attrs["axes"]) == ["stage_y", "stage_x"]
        expected = truth.copy()
        expected[0, 2] = expected[2, 3] = np.nan
        for name in ("Fe_K", "Cu_K"):
            np.testing.assert_array_equal(maps[name][...], expected)
        np.testing.assert_array_equal(maps["Fe_K_errors"][...], np.sqrt(expected))
        assert maps["Fe_K"].attrs["units"] == "counts/s"
        np.testing.assert_allclose(maps["stage_x"][...], [5, 15, 25, 35])
        assert maps["stage_x"].attrs["units"] == "um"
        process = file["entry/process"]
        assert text(file, "entry/process/program") == "p06bs.callbacks.xrf:RegionSums"
        assert process["settings/threshold"][()] == 0
        assert process["settings_r1/threshold"][()] == 1
        assert json.loads(process["settings/regions"].asstr()[()]) == {"Fe_K": [6.2, 6.6]}
        assert text(file, "entry/experiment_identifier") == "11012345"
        index = file["entry/bluesky/streams/primary/descriptor"][...]
        assert index.tolist() == [0] * 5 + [1] * (len(rows) - 5)


def test_a_map_goes_on_where_outputs_change(tmp_path: Path) -> None:
    documents = derived_run([(n, float(n), True) for n in range(1, 13)], revise_after=5)
    second = [i for i, (n, _) in enumerate(documents) if n == "descriptor"][1]
    documents[second][1]["name"] = "primary_r1"
    with h5py.File(write(documents, tmp_path)) as file:
        streams = file["entry/bluesky/streams"]
        assert (len(streams["primary/uid"]), len(streams["primary_r1/uid"])) == (5, 7)
        assert np.isfinite(file["entry/maps/Fe_K"][...]).all()
        assert file["entry/maps"].attrs["placed"] == "raster"


def test_a_fly_map_live_and_what_is_derived_from_it(tmp_path: Path) -> None:
    beamline = Beamline(Phantom.default(), seed=3)
    box = TriggerBox(beamline, name="panda")
    paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path / "raw")
    detector = FluorescenceDetector(beamline, box, paths, name="xspress3")
    shape = (5, 7)
    with Serializer(tmp_path / "nexus", tree=tmp_path) as live:
        plan = fly_map([detector], box, nx=shape[1], ny=shape[0], rate=np.inf)
        documents = run(plan, subscriber=live)
    (path,) = live.artifacts["all"]
    assert validate(path) == []
    check_lossless(path, documents)
    with h5py.File(path) as file:
        spectra = file["entry/instrument/xspress3/data"][...]
        assert spectra.shape[0] == 35
        assert file["entry/maps"].attrs["signal"] in file["entry/maps"]

    region = (518, 558)
    derived = process(RegionSums(regions={"Fe_K": region}), documents)
    with h5py.File(write(derived, tmp_path / "derived")) as file:
        sums = spectra[..., region[0] : region[1] + 1].reshape(35, -1).sum(1).reshape(shape)
        sums[1::2] = sums[1::2, ::-1]
        np.testing.assert_array_equal(file["entry/maps/Fe_K"][...], sums)
        assert file["entry/maps/Fe_K"].attrs["units"] == "counts"


def test_maps_are_placed_by_the_positions_of_other_runs(tmp_path: Path) -> None:
    """The files of a raw and a derived run hold the maps that a server shows of them."""
    x, y = nominal()
    numbers, values = np.arange(1, NY * NX + 1), phantom(x, y)
    scan: dict[str, list[Any]] = {uid: [] for uid in ("raw", "run", "positions")}
    raw = Writer(lambda *one: scan["raw"].append(one), "raw", **RASTER, **MOTORS)
    raw.stream(units={"x": "um", "y": "um", "i0": "counts"})
    raw.page(numbers, x=x, y=y, i0=values)
    run = xrf(lambda *one: scan["run"].append(one), "run", "raw")
    run.page(numbers, Fe_K=values)
    positions = corrected(lambda *one: scan["positions"].append(one), "positions", "raw")
    positions.page(numbers, x=6.0 - x, y=y)
    for one in (raw, run, positions):
        one.stop()
    expected = maps_of([*scan["raw"], *scan["positions"], *scan["run"]])
    assert expected["Fe_K"].placed == "measured"
    for uid, name in (("run", "Fe_K"), ("raw", "i0")):
        beside = [document for other in scan if other != uid for document in scan[other]]
        with h5py.File(export(scan[uid], tmp_path, beside=beside)["all"][0]) as file:
            maps = file["entry/maps"]
            np.testing.assert_array_equal(maps[name][...], expected[name].values)
            assert maps.attrs["positions_run"] == "positions"
            np.testing.assert_array_equal(maps["x"][...], expected[name].x.places(NX))
        mirrored = expected[name].values[:, ::-1]
        with h5py.File(export(scan[uid], tmp_path / "alone")["all"][0]) as file:
            np.testing.assert_array_equal(file[f"entry/maps/{name}"][...], mirrored)


@pytest.mark.parametrize(
    ("slow", "role", "unit"),
    [("y", "position_y", "um"), ("z", "position_z", "um"), ("rotation", "rotation", "deg")],
)
def test_corrected_positions_of_whatever_axes_place_the_rows(
    tmp_path: Path, slow: str, role: str, unit: str
) -> None:
    ny, nx = 3, 4
    at, number = f"at_{slow}", np.arange(float(ny * nx))
    raw = raw_run(
        {at: number // nx, "at_x": number % nx, "i0": number},
        shape=[ny, nx],
        extents=[[0, ny - 1], [0, nx - 1]],
        snaking=[False, False],
        motors=[at, "at_x"],
        hints={"dimensions": [[[at], "primary"], [["at_x"], "primary"]]},
        devices={at: role, "at_x": "position_x"},
        units={at: unit, "at_x": "um"},
    )
    positions = process(Positions(axes=("x", slow), lag=1.0), raw)
    expected = maps_of([*raw, *positions])["raw.i0"].values
    assert np.isnan(expected).any()  # the lag moves rows off their nominal pixels
    with h5py.File(export(raw, tmp_path, beside=positions)["all"][0]) as file:
        np.testing.assert_array_equal(file["entry/maps/i0"][...], expected)


def test_errors_are_those_of_the_mean_of_the_rows_in_a_pixel(tmp_path: Path) -> None:
    """Of rows that lie in the raw run's pixels, some invalid, superseded or without a sigma."""
    ny, nx = 2, 2
    x, y = np.array([0, 0.1, 0.2, 1, 1.1, 0, 0.1, 1.0, 1.1]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    scan: dict[str, Any] = {
        "shape": [ny, nx], "extents": [[0, 1], [0, 1]], "motors": ["y", "x"], "num_points": 9,
    }  # fmt: skip
    documents: list[Any] = []
    raw: list[Any] = []
    first = Writer(lambda *one: raw.append(one), "raw", **scan)
    first.stream(units={"x": "um", "y": "um"})
    first.page(range(1, 10), x=x, y=y)
    first.stop()
    run = Writer(lambda *one: documents.append(one), "run", "raw", **scan)
    run.stream(units={"Fe": "1/s", "Fe_sigma": "1/s"})
    values = np.array([10.0, 20, 30, 7, np.nan, 5, 5, 4, 4])
    sigmas = np.array([3.0, 4, 12, 2, 9, 1, 1, np.nan, 1])
    valid = np.arange(9) != 6
    run.page([9, *range(1, 10)], Fe=[9, *values], Fe_sigma=[9, *sigmas], valid=[True, *valid])
    run.stop()
    with h5py.File(export(documents, tmp_path, beside=raw)["all"][0]) as file:
        maps = file["entry/maps"]
        assert maps.attrs["placed"] == "measured"
        np.testing.assert_allclose(maps["Fe"][...], [[20, 7], [5, 4]])
        np.testing.assert_allclose(maps["Fe_errors"][...], [[13 / 3, 2], [1, np.nan]])


@pytest.mark.parametrize("plan", ["spiral", "list_scan", "spiral_square", "rel_grid_scan"])
def test_whatever_covers_an_area_opens_as_maps(tmp_path: Path, plan: str) -> None:
    x, y, detector = axes_and_detector()
    documents = run(PLANS[plan](detector, x, y))
    if plan == "spiral_square":
        documents[0][1]["motors"] = ["x", "y"]  # in which order, bluesky leaves to chance
    expected = maps_of(documents)
    with h5py.File(write(documents, tmp_path)) as file:
        maps = file["entry"][file["entry"].attrs["default"]]
        np.testing.assert_array_equal(maps["det"][...], expected["det"].values)
        assert maps.attrs["placed"] == expected["det"].placed
        assert list(maps.attrs["axes"]) == ["y", "x"]

"""Tiled's own web UI in a headless Chromium: rows of tables, maps with NaN, frames."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from p06bs.server.app import build_app
from p06bs.server.sink.sink import Sink
from tests.browsers import chromium, shown, violations
from tests.live_runs import KEYS, add_page, begin, end, row_data
from tests.live_server import serving

KEY = "k3y"
RUN = "raster-of-a-leaf"


def frames(count):
    """A map that is measured from top to bottom: what is not there yet is NaN."""
    y, x = np.mgrid[:60, :80]
    leaf = np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / 300) + 0.1 * np.sin(x / 5)
    leaf[40:] = np.nan
    return np.ones((count, 1, 1)) * leaf


@pytest.fixture(scope="module")
def url():
    sink = Sink(200_000_000)
    keys = {
        **KEYS,
        "leaf": {"dtype": "array", "dtype_numpy": "<f8", "shape": [60, 80], "source": "x"},
    }
    begin(sink, RUN, time=1.7e9, keys=keys, sample={"name": "leaf"})
    seq = np.arange(1, 41)
    add_page(sink, RUN, 1, 40, data={**row_data(seq), "leaf": frames(40)})
    end(sink, RUN, time=1.7e9 + 60)
    with serving(build_app(sink, KEY)) as url:
        yield url


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path) as driver:
        yield driver


def picture(browser, path, element=None):
    """Keep a screenshot as an artefact of the test, and return it."""
    browser.save_screenshot(path)
    content = element.screenshot_as_png if element is not None else path.read_bytes()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_ui_shows_rows_of_tables_and_maps_with_nan(url, browser, tmp_path):
    browser.get(f"{url}/ui/?api_key={KEY}")
    shown(browser, "body", lambda e: "live" in e.text.split())
    assert KEY not in browser.current_url
    browser.get(f"{url}/ui/browse/live/{RUN}/primary/internal")
    for text in (f"{RUN}/1", "reason 10"):
        shown(browser, "[role=gridcell]", lambda e, text=text: e.text == text)
    assert "of 40" in shown(browser, ".MuiTablePagination-displayedRows", lambda e: e.text).text
    picture(browser, tmp_path / "table.png")

    browser.get(f"{url}/ui/browse/live/{RUN}/primary/leaf")
    canvas = shown(browser, "canvas", lambda e: e.get_attribute("width") == "80")
    drawn = "return arguments[0].getContext('2d').getImageData(40, 30, 1, 1).data[3] == 255"
    shown(browser, "canvas", lambda e: browser.execute_script(drawn, e))
    image = picture(browser, tmp_path / "map.png", canvas)
    height = len(image)
    assert (image[int(height * 0.9)] > 250).all()  # not measured yet: the page shines through
    assert image[height // 2].max() > 200  # the middle of the leaf
    assert image[height // 4].min() < 60

    browser.get(f"{url}/ui/browse/live/{RUN}/primary/Fe_K")
    shown(browser, "svg.recharts-surface, .recharts-line", lambda e: e.is_displayed())
    picture(browser, tmp_path / "curve.png")
    assert violations(browser) == []


def test_map_as_png_has_transparent_nan_and_both_signs(url):
    answer = httpx.get(
        f"{url}/api/v1/array/full/live/{RUN}/primary/leaf",
        params={"format": "image/png", "slice": "3"},
        headers={"Authorization": f"Apikey {KEY}"},
        timeout=60,
    )
    assert answer.headers["content-type"] == "image/png"
    image = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert image.shape == (60, 80, 4)
    assert np.array_equal(image[..., 3] == 0, np.isnan(frames(1)[0]))
    assert image[30, 40, 0] > image[30, 40, 2]  # red: the highest


@pytest.mark.parametrize(
    ("accept", "kind", "first"),
    [
        ("application/json, text/plain, */*", "application/x-ndjson", b"{"),
        ("*/*", "application/json-seq", b"\x1e{"),
    ],
)
def test_pages_get_lines_and_other_clients_what_they_ask_for(url, accept, kind, first):
    answer = httpx.get(
        f"{url}/api/v1/table/partition/live/{RUN}/primary/internal",
        params={"partition": 0, "format": "application/json-seq"},
        headers={"Authorization": f"Apikey {KEY}", "Accept": accept},
        timeout=60,
    )
    assert answer.headers["content-type"].startswith(kind)
    assert answer.content.startswith(first)
    assert answer.content.count(b"\n") == 40

"""Images of maps and frames, and tables as lines of JSON."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from tiled.utils import SerializationError, UnsupportedShape

from p06bs.server.tree.serializers import BAND_PIXELS, json_lines, png


def image_of(array):
    image = Image.open(io.BytesIO(png("image/png", array, {})))
    image.load()
    return image


def test_nan_is_transparent_and_the_scale_is_that_of_the_rest():
    values = np.arange(10_000.0).reshape(100, 100)
    values[3:5, 7] = np.nan
    values[50, 50] = 1e30  # one hot pixel does not darken the rest
    image = np.asarray(image_of(values).convert("RGBA"))
    assert image.shape == (100, 100, 4)
    assert not image[3:5, 7, 3].any()
    assert (np.delete(image[:, :, 3].ravel(), [307, 407]) == 255).all()
    assert image[0, 0, 0] == 0
    assert image[99, 99, 0] == image[50, 50, 0] == 255
    assert np.all(np.diff(image[10:49, 5, 0].astype(int)) > 0)


def test_signed_values_are_white_at_zero_blue_below_and_red_above():
    values = np.linspace(-4, 2, 301)[None, :].repeat(20, 0)
    values[0, 0] = np.nan
    image = np.asarray(image_of(values))
    at = {value: image[10, round((value + 4) * 50)].astype(int) for value in (-4, -2, 0, 2)}
    assert (at[0][:3] > 240).all()
    assert at[-2][2] > at[-2][0]
    assert at[2][0] > at[2][2]
    assert at[-4][:3].sum() < at[-2][:3].sum()
    assert image[0, 0, 3] == 0


@pytest.mark.parametrize(
    ("array", "size"),
    [
        (np.arange(5), (5, 1)),
        (np.float64(3.0), (1, 1)),
        (np.eye(3, dtype=bool), (3, 3)),
        (np.full((2, 3), np.nan), (3, 2)),
        (np.full((2, 3), 7), (3, 2)),
        (np.array([[-np.inf, 1.0], [2.0, np.inf]]), (2, 2)),
        (np.array([[-1e308, 1e308]]), (2, 1)),
        (np.zeros((4, 5, 3), np.uint8), (5, 4)),
        (np.ones((2, 2)) * 1j, (2, 2)),
        (np.array([[2**63 - 1, -(2**63)]]), (2, 1)),
    ],
)
def test_every_array_of_numbers_has_an_image(array, size):
    assert image_of(array).size == size


@given(
    arrays.arrays(
        st.sampled_from(["f4", "f8", "i2", "i8", "u1", "u8", "?", ">f4"]),
        arrays.array_shapes(max_dims=2, max_side=9),
    )
)
def test_no_number_breaks_the_image(array):
    image = np.asarray(image_of(array).convert("RGBA"))
    assert image.shape[:2] == np.atleast_2d(array).shape
    if array.dtype.kind == "f":
        assert np.array_equal(image[:, :, 3] == 0, np.isnan(np.atleast_2d(array)))


def plainly(values):
    """The image of an array of numbers of two axes, made as a whole: a truth to compare with."""
    values = np.abs(values) if values.dtype.kind == "c" else values
    flat = values.astype(float).ravel()
    finite = flat[np.isfinite(flat)]
    low, high = (0.0, 1.0) if not finite.size else (
        np.percentile(finite, 1, method="lower"), np.percentile(finite, 99, method="higher")
    )  # fmt: skip
    if finite.size and low == high:
        low, high = finite.min(), finite.max()
    signed = low < 0 < high
    if signed:
        low, high = -max(-low, high), max(-low, high)
    if high > low:
        levels = np.nan_to_num(np.clip((values / 2 - low / 2) / (high / 2 - low / 2), 0, 1) * 255)
    else:
        levels = np.full(values.shape, 127)
    hidden = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    return levels.round().astype(int), hidden, signed


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u2", "u4", ">i8", "c8"])
@pytest.mark.parametrize("middle", [0, 100_000])
def test_bands_make_the_image_of_the_whole(dtype, middle):
    values = np.random.default_rng(7).normal(middle, 1000, (700, 900))
    if np.dtype(dtype).kind == "u":
        values = abs(values)
    if np.dtype(dtype).kind == "f":
        values[::7, ::9] = np.nan
    array = (np.clip(values, -30_000, 30_000) if "2" in dtype else values).astype(dtype)
    assert array.size > 2 * BAND_PIXELS
    image = np.asarray(image_of(array[:, ::-1].T).convert("RGBA")).astype(int)
    levels, hidden, signed = plainly(array[:, ::-1].T)
    assert np.array_equal(image[:, :, 3] == 0, hidden)
    grey = image[:, :, 0] == image[:, :, 2]
    assert np.abs(image[:, :, 0] - levels)[~hidden].max() <= 1 or signed
    assert grey[~hidden].all() != signed


MEMORY = """
import re, sys, numpy as np
from pathlib import Path
from p06bs.server.tree.serializers import png
def status(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
png("", np.eye(9), {})
image = np.arange(1 << 24).astype(sys.argv[1]).reshape(1 << 12, -1)
if sys.argv[1] != "u4":
    image -= 1 << 23
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
png("", image, {})
print((status("VmHWM") - before) / image.nbytes)
"""


@pytest.mark.parametrize("dtype", ["u4", "f4"])
def test_a_frame_of_16_million_pixels_takes_a_small_multiple_of_its_bytes(dtype):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, dtype], capture_output=True, text=True, check=True
    )
    print(f"{dtype}: {done.stdout}")
    assert float(done.stdout) < 3  # and once itself


def test_what_is_no_image_is_refused():
    with pytest.raises(UnsupportedShape):
        png("image/png", np.zeros((2, 3, 5)), {})
    with pytest.raises(UnsupportedShape):
        png("image/png", np.zeros((0, 3)), {})
    with pytest.raises(SerializationError, match="no type of the pixels"):
        png("image/png", np.array([["a"]]), {})


def test_rows_are_lines_of_json():
    frame = pandas.DataFrame({"x": [1.0, np.nan], "why": ["", "a\n\x1eb"]})
    lines = b"".join(json_lines("", frame, {})).split(b"\n")
    assert [json.loads(line) for line in lines if line.strip()] == [
        {"x": 1.0, "why": ""},
        {"x": None, "why": "a\n\x1eb"},
    ]
    assert b"".join(json_lines("", frame[:0], {})) == b""

"""Fits of fluorescence spectra, 4096 channels, 27 parameters, one thread, beside PyMca and BLAS."""

import time
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.report import Row, ratios, turns
from benchmarks.services import environment
from benchmarks.traffic import Child

REPEAT = 5

PAGE = 512
"""Spectra of one detector element: a row of a map."""
PARAMETERS = 27
VARIANTS = {"Fluorescence": {}, "with track_gain": {"track_gain": ("Co_K",)}}
THEIRS = "PyMca FastXRFLinearFit"
BARE = {"matrix product, float64": "f8", "matrix product, float32": "f4"}
"""What all of it would be with nothing but one product of the spectra, as floats, with the fit."""


def _compute(pipe: Connection, repeat: int, seconds: float) -> None:
    """Send how far the two are apart, and spectra per second of processor time of each."""
    from PyMca5.PyMcaIO import ConfigDict
    from PyMca5.PyMcaPhysics.xrf import FastXRFLinearFit

    from p06bs.callbacks._pymca import parse, set_background
    from p06bs.callbacks.xrf import Fluorescence
    from p06bs.model.modality import BoundInput
    from p06bs.sim.spectra import measured, pymca_configuration

    text = pymca_configuration("XRFSpectrum")
    expected = 2e4 * measured("XRFSpectrum")
    spectra = np.random.default_rng(0).poisson(expected, (PAGE, 1, len(expected)))
    page = spectra.astype(np.uint32)
    page.flags.writeable = False
    floats = page[:, 0].astype(np.float64)
    solved = np.random.default_rng(1).normal(size=(floats.shape[1], PARAMETERS))
    bare = {name: (floats.astype(d), np.asfortranarray(solved, d)) for name, d in BARE.items()}
    shape = page.shape[1:]
    bound = {"spectrum": BoundInput("primary", "mca", False, shape, shape, "<u4", "counts")}
    setups = {}
    for name, settings in VARIANTS.items():
        modality = Fluorescence(config=text, background="linear", **settings)
        setups[name] = modality, modality.prepare(modality.settings, bound)
    configuration = ConfigDict.ConfigDict()
    configuration.update(parse(text))
    set_background(configuration, "linear")
    fast = FastXRFLinearFit.FastXRFLinearFit()
    fast.setFitConfiguration(configuration)

    def step(name: str) -> object:
        if name == THEIRS:
            return fast.fitMultipleSpectra(y=floats, weight=0, refit=False)
        if name in bare:
            return np.matmul(*bare[name])
        modality, setup = setups[name]
        return modality.process(setup, spectrum=page)

    ours, theirs = step("Fluorescence"), step(THEIRS)
    apart = 0.0
    areas = zip(theirs.labels("parameters"), theirs["parameters"], strict=True)
    for label, area in areas:
        made = ours.get(label.replace(" ", "_"))
        if made is not None:
            apart = max(apart, float(np.abs(made - area).max() / np.abs(area).max()))
    found: dict[str, list[float]] = {name: [] for name in (*VARIANTS, *BARE, THEIRS)}
    for name in turns(list(found), repeat):
        done, begin = 0, time.process_time()
        while (taken := time.process_time() - begin) < seconds or not done:
            step(name)
            done += PAGE
        found[name].append(done / taken)
    pipe.send((apart, found))


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure both on the same page in turn, with one thread.

    Raises
    ------
    ValueError
        If areas differ by more than 1e-5 of the largest one of their group.
    """
    with environment(), Child(_compute, repeat, seconds / 5) as child:
        apart, found = child.receive()
    if apart > 1e-5:
        raise ValueError(f"areas differ from those of PyMca by {apart:.2g}")
    rows = [
        Row(name, "fits/s", tuple(values), at_least=2e5 if name == "Fluorescence" else None)
        for name, values in found.items()
    ]
    ours = found["Fluorescence"]
    rows += [Row(f"Fluorescence / {name}", "", ratios(ours, found[name])) for name in BARE]
    made = ratios(ours, found[THEIRS])
    return [*rows, Row(f"Fluorescence / {THEIRS}, pages of {PAGE}", "", made, at_least=5)]

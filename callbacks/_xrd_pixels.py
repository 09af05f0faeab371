"""Masks, flats and darks: pictures that belong to settings, which travel as JSON."""

import base64
import bz2
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from p06bs.callbacks._arrays import Array
from p06bs.model.modality import ModalitySettings

Mask2D = npt.NDArray[np.bool_]


class Mask(ModalitySettings):
    """Pixels that are left out: the content of a mask, so that documents hold it.

    Made of an array or of the path of a picture (``.npy``, ``file.h5::/dataset``, or what fabio
    reads: ``.edf``, ``.tif``, ``.cbf``, Fit2D's ``.msk``); what is not zero is masked.
    """

    shape: tuple[int, int] = Field(description="(y, x)")
    bits: str = Field(description="a bit per pixel, 1 is masked; bzip2, base64")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str | Path):
            given = read_picture(str(given))
        if isinstance(given, list | np.ndarray):
            masked = np.asarray(given)
            if masked.ndim != 2 or masked.dtype.kind not in "biuf":
                raise ValueError(f"a mask has two axes of numbers, not shape {masked.shape}")
            packed = bz2.compress(np.packbits(masked != 0).tobytes())
            return {"shape": masked.shape, "bits": base64.b64encode(packed).decode()}
        return given

    @model_validator(mode="after")
    def _whole(self) -> "Mask":
        try:
            self.pixels()
        except (ValueError, OSError) as error:
            raise ValueError(f"bits are not those of a mask of {self.shape}: {error}") from None
        return self

    def pixels(self) -> Mask2D:
        """Return the mask, True where a pixel is left out."""
        size = self.shape[0] * self.shape[1]
        packed = bz2.BZ2Decompressor().decompress(base64.b64decode(self.bits), size // 8 + 2)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8))
        if min(self.shape) < 1 or len(bits) != -(-size // 8) * 8:
            raise ValueError(f"there are {len(bits)} for {size} pixels")
        return bits[:size].reshape(self.shape).astype(bool)


class Picture(ModalitySettings):
    """A picture in a file, too large for documents: its path, and the digest of its content.

    A file that has changed since is refused, so that results either are the same or
    are not made again.
    """

    path: str = Field(description="absolute, on a file system that all workers see")
    sha256: str = Field(description="of the file")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str | Path):
            path = absolute(str(given))
            return {"path": path, "sha256": digest(path)}
        return given

    def pixels(self) -> npt.NDArray[np.float64]:
        """Return the picture.

        Raises
        ------
        ValueError
            If the file is not there, cannot be read, or is not what it was.
        """
        require_same(self.path, self.sha256)
        return read_picture(self.path).astype(np.float64)


def file_of(name: str) -> Path:
    """Return the file of a picture, also of one in HDF5, ``file.h5::/dataset``."""
    return Path(name.partition("::")[0]).expanduser()


def absolute(name: str) -> str:
    """Return the name of a picture or file as settings hold it."""
    _, *dataset = name.partition("::")
    return f"{file_of(name).absolute()}{''.join(dataset)}"


def digest(path: str) -> str:
    """Return the SHA-256 digest of a file.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    try:
        return hashlib.sha256(file_of(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error.strerror}") from None


def require_same(path: str, sha256: str) -> None:
    """Make sure that a file is what it was when the settings were made.

    Raises
    ------
    ValueError
        If it is not, or cannot be read.
    """
    if digest(path) != sha256:
        raise ValueError(f"{path} has changed since the settings were made; set it again")


def read_picture(name: str) -> Array:
    """Return the picture in a file, shape (y, x).

    Raises
    ------
    ValueError
        If there is no such file, or it holds no picture, or not at that place.
    ImportError
        If it takes fabio to read it, which is not installed.
    """
    path = file_of(name)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        found = _load(path, name.partition("::")[2])
    except ImportError:
        raise
    except Exception as error:  # fabio raises what it likes
        raise ValueError(f"cannot read {name!r}: {error}") from None
    while found.ndim > 2 and len(found) == 1:
        found = found[0]
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        raise ValueError(f"{name!r} holds no picture: shape {found.shape}, {found.dtype}")
    return found


def _load(path: Path, dataset: str) -> Array:
    if dataset:
        import h5py
        import hdf5plugin  # noqa: F401  registers the compression filters that detectors use

        with h5py.File(path, locking=False) as file:
            return np.asarray(file[dataset])
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if importlib.util.find_spec("fabio") is None:
        raise ImportError(
            f'{path} is read by fabio, which is not installed: pip install "p06bs[xrd]"'
        )
    import fabio

    with fabio.open(str(path)) as picture:
        return np.asarray(picture.data)

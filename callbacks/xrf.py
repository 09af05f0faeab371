"""X-ray fluorescence: sums over regions of interest, and areas of fitted peak groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from p06bs.callbacks import _xrf_settings as xs
from p06bs.callbacks._linear_fit import Fit
from p06bs.model.modality import (
    INVALID,
    Bound,
    BoundInput,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

"""Every value of every simulated device, written down by hand: device -> keys.

Kept apart from the code that gathers them, and from what devices say of themselves. `signals`
tells whether a device has got a value that is not here.
"""

from collections.abc import Iterator
from typing import Any

AT_REST = {
    "samx": "samx samx_setpoint samx_velocity samx_acceleration samx_unused samx-role",
    "samy": "samy samy_setpoint samy_velocity samy_acceleration samy_unused samy-role",
    "samz": "samz samz_setpoint samz_velocity samz_acceleration samz_unused samz-role",
    "rotation": "rotation rotation_setpoint rotation_velocity rotation_acceleration"
    " rotation_unused rotation-role",
    "energy": "energy energy_setpoint energy_velocity energy_acceleration energy_unused"
    " energy-role",
    "scaler": "scaler_preset_time scaler-role",
    "panda": "panda-encoder_resolution panda-encoder_bits panda-encoder_offset_x"
    " panda-encoder_offset_y panda-interferometer_resolution panda-interferometer_wavelength",
    "xspress3": "xspress3-role",
    "eiger": "eiger-role eiger-distance eiger-poni1 eiger-poni2 eiger-rot1 eiger-rot2 eiger-rot3"
    " eiger-pixel1 eiger-pixel2 eiger-wavelength eiger-polarization eiger-dummy",
    "ring": "ring-current ring-energy ring-countdown ring-injecting",
    "shutter": "shutter-state shutter-flux",
    "hutch": "hutch-temperature hutch-pressure hutch-humidity",
}
"""Values that devices have without a scan."""

OF_A_SCAN = {
    "scaler": "scaler-i0 scaler-diode scaler-gate_time scaler-ring_current",
    "panda": "panda-x panda-y panda-z panda-rotation panda-i0 panda-diode panda-gate_time"
    " panda-gate_samples panda-ring_current"
    " panda-encoder_x panda-encoder_x_sum panda-encoder_x_min panda-encoder_x_max"
    " panda-interferometer_x panda-interferometer_x_valid"
    " panda-encoder_y panda-encoder_y_sum panda-encoder_y_min panda-encoder_y_max"
    " panda-interferometer_y panda-interferometer_y_valid",
    "xspress3": "xspress3-spectrum xspress3-live_time xspress3-real_time"
    " xspress3-input_counts xspress3-output_counts",
    "eiger": "eiger",
}
"""Values that they have in scans only."""


def inventory(*tables: dict[str, str]) -> set[str]:
    return {key for table in tables for keys in table.values() for key in keys.split()}


def signals(device: Any) -> Iterator[str]:
    """Yield the names of ophyd's or ophyd-async's signals in a device, through its attributes."""
    for name in getattr(device, "component_names", ()):  # ophyd
        yield getattr(device, name).name
    for name, value in vars(device).items():  # ophyd-async
        if name == "events_to_kickoff":
            continue  # a StandardDetector's own book-keeping, made when it is first used
        if hasattr(value, "children") and value is not getattr(device, "parent", None):
            if hasattr(value, "get_value"):
                yield value.name
            else:
                yield from signals(value)

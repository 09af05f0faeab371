"""What a person at the beamline's IPython prompt has beside RunEngine, devices and plans."""

"""A simulated beamline with known ground truth."""

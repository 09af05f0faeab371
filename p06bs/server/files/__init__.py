"""Files of detectors: what may be read of them, and reading it."""

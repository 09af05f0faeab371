"""What things mean: documents, modalities, binding, the reference `process`. No clock, no net."""

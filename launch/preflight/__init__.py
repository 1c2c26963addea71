"""Is this cluster fit to train on? Checks before the first job."""

"""Experiments: one script per claim, each `main(*, seed=0, ..., out=Path(...)) -> dict`."""

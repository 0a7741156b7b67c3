"""Measurements: `python -m bench` lists them, METRICS.md defines every number they print."""

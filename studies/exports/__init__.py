"""From trials to networks on disk. Start at `exporter.py`."""

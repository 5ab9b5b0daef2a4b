"""The TOML file and what it names: networks, data, checkpoints. Start at `file.py`."""

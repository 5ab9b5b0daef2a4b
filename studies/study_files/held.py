"""What a study file may not say anew while its study goes on, and how it differs from what it said at the start."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from .data import Data
from .file import StudyFile

_TABLES = ("model", "data", "space", "costs", "training", "latency", "study")
_FREE = {
    "study": ("trials", "seconds", "until", "patience", "keep_gb", "track", "device"),
    "data": ("path", "arguments"),
}
"""Settings of these tables that may change, beside the whole of the others; data that moved, and the kind of device,
are held against the study's fingerprint."""


def held(file: StudyFile) -> dict[str, dict[str, Any]]:
    """The settings of a file that its study was made with, by table, as plain values without any password."""
    tables = tomllib.loads(file.to_toml())
    return {
        table: {name: one for name, one in tables.get(table, {}).items() if name not in _FREE.get(table, ())}
        for table in _TABLES
    }


def differences(kept: Mapping[str, Mapping[str, Any]], file: StudyFile) -> list[str]:
    """Sentences on the settings that a file has and its study was not made with.

    Args:
        kept: what `held` gave at the start; a setting that is newer has its default there.
        file: as it is now.
    """
    data = Data() if isinstance(file.data, Data) else None
    now, usual = held(file), held(file.model_validate({"folder": file.folder, "model": file.model, "data": data}))
    found = []
    for table in _TABLES:
        before = kept.get(table, {})
        for name in sorted({*before, *now[table]}):
            was = before.get(name, usual[table].get(name))
            if was != now[table].get(name):
                found.append(f"[{table}] {name} = {_said(now[table].get(name))}, and was {_said(was)}")
    return found


MAY_CHANGE = (
    "what may change are the tables budget and runner, what ends a search, keep_gb and track, which of several GPUs, "
    "and where code and data are"
)


def _said(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

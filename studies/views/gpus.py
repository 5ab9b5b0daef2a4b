"""How busy the GPUs of this machine are, as `nvidia-smi` says."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from typing import Any

_QUERY = "index,uuid,name,utilization.gpu,memory.used,memory.total"
_TIMEOUT_S = 10.0


def gpu_use(names: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row a GPU: `{"gpu", "name", "busy" (0 to 1), "used_bytes", "total_bytes"}`; none where none can be seen.

    Args:
        names: those that are asked for, as `CUDA_VISIBLE_DEVICES` names them; all when empty. Numbers are those of
            `CUDA_DEVICE_ORDER=PCI_BUS_ID`, which differ from CUDA's own only where a machine has unlike GPUs.
    """
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parsed(said.stdout, names) if said.returncode == 0 else []


def parsed(text: str, names: Collection[str] = ()) -> list[dict[str, Any]]:
    r"""The rows that `nvidia-smi` wrote; what it does not know is None.

    >>> parsed("0, GPU-5a, NVIDIA H200, 87, 1024, 143771\n1, GPU-5b, NVIDIA H200, [N/A], 0, 143771", ["1"])
    [{'gpu': '1', 'name': 'NVIDIA H200', 'busy': None, 'used_bytes': 0, 'total_bytes': 150754820096}]
    """
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(_QUERY.split(",")):
            continue
        index, uuid, name, *figures = cells
        if names and not any(index == asked or uuid.startswith(asked) for asked in names):
            continue
        busy, used, total = (int(figure) if figure.isdecimal() else None for figure in figures)
        rows.append(
            {
                "gpu": index,
                "name": name,
                "busy": None if busy is None else busy / 100,
                "used_bytes": None if used is None else used * 2**20,
                "total_bytes": None if total is None else total * 2**20,
            }
        )
    return rows

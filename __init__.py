"""Secateur: the best smaller networks inside a trained CNN, under hard budgets.

Trace a network once, search its widths, depth and input resolution together, and export the front as real models.
The names below load lazily, so that `secateur --help` imports nothing heavy.
"""

from typing import TYPE_CHECKING

from secateur.lazy import face

if TYPE_CHECKING:
    from secateur.evaluators import (
        Classification,
        Detection,
        Latency,
        MultiLabel,
        Reconstruction,
        Regression,
        Segmentation,
        Task,
        Training,
        Wrapped,
        reconstruct,
    )
    from secateur.spaces import Axis, Budget, Candidate, Cost, Scores, Space, build, channel_map, costs, verify
    from secateur.studies import Processes, Ray, Runner, Search, Serial, Study, Tune, load, save
    from secateur.studies.at_once import Pruned, prune
    from secateur.studies.exports.hub import push_to_hub
    from secateur.studies.exports.ready import file_bytes, onnxruntime_ms
    from secateur.studies.preparing import preprocess
    from secateur.studies.study_files import data, networks
    from secateur.studies.study_files.pictures import Images
else:
    __getattr__, __dir__ = face(__name__)

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "Budget",
    "Candidate",
    "Classification",
    "Cost",
    "Detection",
    "Images",
    "Latency",
    "MultiLabel",
    "Processes",
    "Pruned",
    "Ray",
    "Reconstruction",
    "Regression",
    "Runner",
    "Scores",
    "Search",
    "Segmentation",
    "Space",
    "Serial",
    "Study",
    "Task",
    "Training",
    "Tune",
    "Wrapped",
    "build",
    "channel_map",
    "costs",
    "data",
    "file_bytes",
    "load",
    "networks",
    "onnxruntime_ms",
    "preprocess",
    "prune",
    "push_to_hub",
    "reconstruct",
    "save",
    "verify",
]

"""Turn a network into numbers to minimise.

A `Task` holds the data, the loss and the error; `Training` holds the settings of the one loop, `train`. The `Ladder` is
the evaluator a study uses unless it is given another: it takes a function that builds a small network with its
inherited weights, recalibrates its batch norms, fine-tunes it as far as the fidelity asks, and measures it on the
validation split. Without training, `reconstruct` solves the small network's layers again. A `Teacher`, usually the full
network, gives its answers to what is fine-tuned. A network that diverges or does not fit into memory is a failed
`Result`, never an exception.

    task = Classification(train=(images, labels), validation=(more_images, more_labels), augment=Augment(shift=0.1))
    training = Training(lr=0.02, short_epochs=1)
    train(model, task, training.from_scratch(), epochs=20)
    ladder = Ladder(task, training)
    print(ladder(lambda: build(model, space, candidate), candidate=candidate, resolution=(20, 20), fidelity="short"))

Start reading at `ladder.py`.
"""

from typing import TYPE_CHECKING

from ..lazy import face

if TYPE_CHECKING:
    from .ladder import FIDELITIES, Context, Evaluator, Ladder, Result, checked_evaluator
    from .latency.latency import Latency, Timing, measure_latencies, measure_latency, measure_peak_bytes
    from .latency.latency_model import LatencyModel
    from .reconstruction.reconstruct import Origin, Reconstruction, Reconstructor, reconstruct
    from .tasks.boxes import BoxPrecisionError
    from .tasks.decoded import LazyImages
    from .tasks.dense import OverlapError, UnexplainedError
    from .tasks.detection import Detection
    from .tasks.image_task import ImageTask
    from .tasks.learned import ErrorRate, PrecisionError
    from .tasks.ready_made import Classification, MultiLabel, Regression, Segmentation
    from .tasks.sources import Augment, Batch
    from .tasks.task import (
        Distills,
        Metric,
        Rebatches,
        Resizes,
        Splits,
        Stores,
        Task,
        Wrapped,
        check_task,
    )
    from .training.gradients import PrunedGradients
    from .training.loop import Loop, Teacher
    from .training.parallel import Placement
    from .training.settings import Training
    from .training.training import Diverged, measure_error, recalibrate, train
else:
    __getattr__, __dir__ = face(__name__)

__all__ = [
    "FIDELITIES",
    "Augment",
    "Batch",
    "BoxPrecisionError",
    "Classification",
    "Context",
    "Detection",
    "Distills",
    "Diverged",
    "ErrorRate",
    "Evaluator",
    "ImageTask",
    "Ladder",
    "Latency",
    "LatencyModel",
    "LazyImages",
    "Loop",
    "Metric",
    "MultiLabel",
    "Origin",
    "OverlapError",
    "Placement",
    "PrecisionError",
    "PrunedGradients",
    "Rebatches",
    "Reconstruction",
    "Reconstructor",
    "Regression",
    "Resizes",
    "Result",
    "Segmentation",
    "Splits",
    "Stores",
    "Task",
    "Teacher",
    "Timing",
    "Training",
    "UnexplainedError",
    "Wrapped",
    "check_task",
    "checked_evaluator",
    "measure_error",
    "measure_latencies",
    "measure_latency",
    "measure_peak_bytes",
    "recalibrate",
    "reconstruct",
    "train",
]

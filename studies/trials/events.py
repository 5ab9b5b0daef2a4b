"""Everything that is told while something runs: frozen values, each of which as text is the line that a terminal shows.

`progress=` gets an `Event`; a worker says `Said`, the driver gets it as a `Message`; a slot's doing is a `SlotChanged`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .trial import Evaluated, Failed, Trial
from .words import count, duration, percent, shortened

if TYPE_CHECKING:
    from ...evaluators import Loop

_REASON = 200  # letters that are shown of one


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which of several networks that are exported.

    Attributes:
        place: from 1.
        networks: how many there are.
        trial: its number.
        key: of its candidate.
    """

    place: int = 1
    networks: int = 1
    trial: int = 0
    key: str

    def __str__(self) -> str:
        return f"network {self.place}/{self.networks} (trial {self.trial})"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch of a training ended.

    Attributes:
        of: what is trained: `"base network"`, a pruning method, a trial, shared weights, or a network to export.
        done: epochs trained so far.
        total: epochs of the training.
        loss: mean over the epoch.
        eta: seconds that are left; None where it is not known.
    """

    of: str | Network
    done: int
    total: int
    loss: float
    eta: float | None = None

    def __str__(self) -> str:
        return f"{self.of}: epoch {self.done}/{self.total}, loss {self.loss:.4f}{_left(self)}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of something begins.

    Attributes:
        of: what has steps.
        doing: the step.
        done: steps before it.
        total: how many there are.
    """

    of: str
    doing: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.of}: {self.doing} ({self.done + 1}/{self.total})"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A trial reached a fidelity, and was measured there."""

    of: str
    rung: str
    error: float

    def __str__(self) -> str:
        return f"{self.of}: error {percent(self.error)} at {self.rung}"


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial was told.

    Attributes:
        last: the trial.
        best: the one with the lowest error within the budget so far; None where there is none.
        done: trials told so far, of a `total` at the end of the run; None where their number does not end it.
        running: how many others are on the way.
        eta: seconds that are left.
    """

    last: Trial
    best: Trial | None
    done: int
    total: int | None
    running: int = 0
    eta: float | None = None

    def __str__(self) -> str:
        said = _error(self.last) if self.last.scored else shortened(self.last.reason or "", _REASON)
        best = "" if self.best is None else f"; best {_error(self.best, '')} (trial {self.best.number})"
        macs = count(self.last.costs["macs"])
        return f"{self._done} trials: {said}, {macs} MACs{best}{self._others}{_left(self)}"

    @property
    def short(self) -> str:
        """The same for a place beside a progress bar, where the time left is always seen."""
        known = self.best
        best = "none within the budget yet" if known is None else f"best {_error(known, '')} (trial {known.number})"
        last = f"last {_error(self.last, '') if self.last.scored else 'failed'}"
        return f"{self._done} trials; {best}; {last}{self._others}{_left(self)}"

    @property
    def _done(self) -> str:
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    @property
    def _others(self) -> str:
        return f"; {self.running} running" if self.running else ""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The latency, or another `cost`, of more networks was measured before the search: `done` of `total` in all."""

    done: int
    total: int
    cost: str = "latency"

    def __str__(self) -> str:
        return f"{self.cost}: {self.done}/{self.total} networks measured"


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A pruning method proposed a network of these `costs`, in so many `seconds`."""

    method: str
    seconds: float
    costs: Mapping[str, int]

    def __str__(self) -> str:
        costs = f"{count(self.costs['macs'])} MACs, {count(self.costs['params'])} parameters"
        return f"{self.method} proposes a network of {costs}, in {duration(self.seconds)}"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network was trained to the end, or was before.

    Attributes:
        network: which one.
        figures: error, its standard error and the number of examples of each split, and `epochs`.
    """

    network: Network
    figures: Mapping[str, Any]

    def __str__(self) -> str:
        found = self.figures
        errors = [
            f"{split} error {percent(found[f'{split}_error'])} +- {100 * found[f'{split}_error_std']:.2f} "
            f"({found[f'{split}_size']} examples)"
            for split in ("validation", "test")
            if f"{split}_error" in found
        ]
        return f"{self.network}: trained, {', '.join(errors)}"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network was written.

    Attributes:
        network: which one.
        folder: where.
        verified: how far what was written is from the network, by format; see `write_model`.
        figures: as in `Trained`.
    """

    network: Network
    folder: str
    verified: Mapping[str, Any]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        compared = {name: found for name, found in self.verified.items() if isinstance(found, Mapping)}
        numbers = (value for found in compared.values() for value in found.values() if isinstance(value, int | float))
        worst = max(map(float, numbers), default=0.0)
        return f"{self.folder}: {', '.join(compared)}; largest difference {worst:.1e} of the largest output"


Event = TrialEnded | Epoch | Calibrated | Proposed | Trained | Exported | Step
Listener = Callable[[Event], object]
Say = Callable[[Epoch | Rung], object]


class Watch:
    """Tells of every epoch of a training: a callback of `train`."""

    def __init__(self, listener: Listener | Say | None, of: str | Network) -> None:
        """Tell `listener` that this is trained."""
        self._listener, self._of = listener, of
        self._last, self._ended = -1, time.perf_counter()

    def after_epoch(self, loop: Loop) -> None:
        """Announce it."""
        now = time.perf_counter()
        if loop.epoch != self._last + 1:  # another training, or one that goes on after a kill
            self._began, self._started = loop.epoch - 1, self._ended
        self._last, self._ended = loop.epoch, now
        if self._listener is not None:
            each = (now - self._started) / (loop.epoch - self._began)
            eta = each * (loop.epochs - loop.epoch)
            self._listener(Epoch(of=self._of, done=loop.epoch, total=loop.epochs, loss=loop.losses[-1], eta=eta))


# --- what a worker says -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """Where a worker is: its process, its host and the GPUs that it sees; None where that is not known."""

    pid: int | None = None
    host: str | None = None
    gpus: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker is up; artifacts are in its `folder`."""

    worker: WorkerInfo
    folder: str = ""

    def __str__(self) -> str:
        return f"is ready: process {self.worker.pid} on {self.worker.host}"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A worker has taken its job."""

    def __str__(self) -> str:
        return "has begun"


@dataclass(frozen=True, kw_only=True)
class Happened:
    """Something happened in a job.

    Attributes:
        event: what.
        files: artifacts that it made by then, by path in the study; None for those that it took away.
    """

    event: Epoch | Rung
    files: Mapping[str, bytes | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.event)


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended.

    Attributes:
        outcome: of the trial; None for a round that was trained.
        files: as in `Happened`.
        transient: whether it failed for a reason that may be gone the next time.
    """

    outcome: Evaluated | None = None
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    transient: bool = False

    def unsendable(self, error: Exception) -> JobEnd:
        """The same, failed, where sending what the evaluator gave back raised `error`: attributes are the user's."""
        reason = f"what the evaluator gave back can't be sent ({type(error).__name__}: {error})"
        seconds = 0.0 if self.outcome is None else self.outcome.seconds
        return JobEnd(outcome=Failed(reason=reason, seconds=seconds), files=self.files, transient=self.transient)

    def __str__(self) -> str:
        return f"failed: {self.outcome.reason}" if isinstance(self.outcome, Failed) else "has ended"


@dataclass(frozen=True)
class Lost:
    """A worker died, and its slot will take another job."""

    why: str

    def __str__(self) -> str:
        return f"lost its worker: {self.why}"


@dataclass(frozen=True)
class Unable:
    """No worker can do such work."""

    why: str

    def __str__(self) -> str:
        return f"can't do this: {self.why}"


Said = Begun | Happened | JobEnd | Lost | Unable


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is said in a slot, whose number counts from 0."""

    slot: int
    said: Said

    def __str__(self) -> str:
        return f"slot {self.slot} {self.said}"


# --- what slots do ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Doing:
    """A job under way: `training` of the trial's shared weights, or the trial; its last epoch, once one ended."""

    trial: int
    training: bool = False
    attempt: int = 1
    epoch: Epoch | None = None

    def __str__(self) -> str:
        said = "shared weights" if self.training else f"trial {self.trial}"
        said += f", attempt {self.attempt}" if self.attempt > 1 else ""
        return said if self.epoch is None else f"{said}, epoch {self.epoch.done}/{self.epoch.total}"


Change = Literal["open", "started", "begun", "epoch", "ended", "lost"]
STATES: dict[Change, str] = {
    "open": "free",
    "started": "busy",
    "begun": "busy",
    "epoch": "busy",
    "ended": "free",
    "lost": "lost",
}
"""What a slot is after each."""


@dataclass(frozen=True, kw_only=True)
class SlotChanged:
    """Something happened in a slot.

    Attributes:
        slot: its number, from 0.
        change: it is open; a job was started, and begun by its worker; an epoch of it, or all of it ended; its worker
            was lost.
        worker: where its worker is.
        doing: its job, where it has one.
    """

    slot: int
    change: Change
    worker: WorkerInfo = field(default_factory=WorkerInfo)
    doing: Doing | None = None

    @property
    def state(self) -> str:
        """`"free"`, `"busy"` or `"lost"`."""
        return STATES[self.change]

    def __str__(self) -> str:
        return f"slot {self.slot} {self.change}" + ("" if self.doing is None else f": {self.doing}")


def _left(event: Epoch | TrialEnded) -> str:
    return "" if event.eta is None or event.done == event.total else f"; {duration(event.eta)} left"


def _error(trial: Trial, name: str = "error ") -> str:
    return f"{name}{percent(trial.measures['error'])}"

"""One method of the literature alone: from a study file to an exported network within the budget. Start at `prune`.

Until the network is done all there is lies in a folder beside it, `NAME.part`: the trained base network, the pruning
phase after every epoch, what was proposed, the fine-tuning. The same call goes on from there after a kill.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluators import Task, Teacher
from ..pruners import Even, Method, check_method, trains
from ..spaces import Candidate, Space
from .disk.artifacts import Artifacts
from .disk.files import read_json, to_json, write_atomic
from .disk.lock import locked
from .disk.weights import digest, read_tensors, state_of
from .exports.exporter import errors, finished
from .exports.model import write_model
from .outcomes.latency import Latencies
from .proposals.pruning import Pruning, method_named, settings_of
from .proposals.seeds import Aim
from .settings.determinism import present, reproducible, seed_of
from .settings.identity import ranking_name
from .study_files.file import StudyFile, read
from .study_files.parts import make_model, make_task, traced, train_base
from .trials.events import Exported, Listener, Network, Proposed
from .trials.folder import BASE, STUDY_JSON, part_of, read_study_json

_STEPS = 7  # halvings of the multiply-adds in the search for a latency
_MARGIN = 0.97  # of a latency budget that the search for multiply-adds aims at: a second measurement differs a little


def prune(
    file: StudyFile,
    method: str | Method,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    study: Path | None = None,
    finetune_epochs: int | None = None,
    progress: Listener | None = None,
) -> Path:
    """The folder of the network that one method made within the file's budget, fine-tuned, exported and verified.

    Args:
        file: the study file.
        method: name of a method, or a method of the user's.
        out: a new folder.
        settings: of a method that is given by name, such as `{"strength": 15.0}`.
        study: a study's folder, whose base network is taken as it is; None makes it as the file says.
        finetune_epochs: of the last training; the file's `long_epochs` when None.
        progress: called with events: `Epoch`, `Proposed`, `Trained`, `Exported`; see `trials/events.py`.

    Raises:
        FileExistsError: `out` exists, or was begun with other settings.
        ValueError: the method is unknown or can't do what is asked, or something in the file is off.
    """
    out, pruner = Path(out), method_named(method, settings) if isinstance(method, str) else check_method(method)
    epochs = file.training.long_epochs if finetune_epochs is None else finetune_epochs
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"finetune_epochs={epochs!r}: expected an integer of at least 0")
    if not file.budget.asked():
        raise ValueError(f"{pruner.name} needs a budget; give one, such as --budget macs=0.5")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already; remove it or choose another folder")
    kept = None if study is None else _kept_base(study)
    model, task = make_model(file if kept is None else file.without_weights()), make_task(file)
    if kept is not None:
        model.load_state_dict(kept, strict=False)
    space = traced(file, model, task)
    space.check_limits(file.budget.limits(space))
    device = present(file.study.device)
    part = _begun(part_of(out), {"file": file.to_toml(), "finetune_epochs": epochs, **settings_of(pruner)})
    say = progress or (lambda event: None)
    with locked(part), reproducible(file.study.threads or torch.get_num_threads(), device):
        if file.model.train and kept is None:
            train_base(file, model, task, space, part, progress)
            space = traced(file, model, task)
        job = _Job(file=file, model=model, task=task, space=space, folder=part, device=device, say=say)
        said = job.propose(pruner)
        small, figures = job.finish(said, epochs)
        shutil.rmtree(part / "export", ignore_errors=True)
        candidate = Candidate(said["candidate"])
        verified = write_model(
            part / "export",
            model=small,
            full=model,
            example=job.example(candidate),
            cut=job.artifacts.cut(candidate, said["ranking"]),
            record=job.record(pruner, said, figures),
        )
        os.rename(part / "export", out)
    shutil.rmtree(part)
    say(Exported(network=Network(key=candidate.key), folder=str(out), verified=verified, figures=figures))
    return out


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One network under way; holds what its steps share."""

    file: StudyFile
    model: nn.Module
    task: Task
    space: Space
    folder: Path
    device: torch.device
    say: Listener

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(folder=self.folder, space=self.space, scores=None, ranking=ranking_name(self.space, None))

    def propose(self, method: Method) -> dict[str, Any]:
        """What the method proposes, as `Artifacts.keep` gives it; asked once."""
        said = self.artifacts.proposed("proposal")
        if said is not None:
            return said
        started = time.perf_counter()
        pruning = Pruning(
            model=self.model,
            space=self.space,
            task=self.task,
            training=self.file.training,
            seed=self.file.study.seed,
            device=self.device,
        )
        limits = dict(self._limits)
        latency_limit = limits.pop("latency_ms", None)
        state = self.folder / "phase.pt"
        if latency_limit is None:
            proposal = pruning.propose(method, Aim(limits=limits), state=state, say=self.say)
        else:
            macs, proposal = self._within_latency(pruning, Even() if trains(method) else method, limits, latency_limit)
            if trains(method):
                proposal = pruning.propose(method, Aim(limits={**limits, "macs": macs}), state=state, say=self.say)
                self._check_latency(method, proposal.candidate, latency_limit)
        seconds = time.perf_counter() - started
        said = self.artifacts.keep("proposal", method.name, proposal, selects=True, seconds=seconds)
        costs = self.space.cost_table([proposal.candidate])
        whole = {name: int(column[0]) for name, column in costs.items()}
        self.say(Proposed(method=method.name, seconds=seconds, costs=whole))
        return said

    def finish(self, said: Mapping[str, Any], epochs: int) -> tuple[nn.Module, dict[str, Any]]:
        """The network trained to the end, on the CPU, and its figures beside the full network's."""
        candidate = Candidate(said["candidate"])
        small = self.artifacts.build(self.model, candidate, said["ranking"], said["weights"])
        figures = finished(
            small,
            self.task,
            self.file.training,
            teacher=Teacher(model=self.model, resolution=self.space.side(self.space.full) or None),
            epochs=epochs,
            side=self.space.side(candidate) or None,
            seed=seed_of(self.file.study.seed, 0, 1),
            device=self.device,
            folder=self.folder / "finish",
            network=Network(key=candidate.key),
            say=self.say,
        )
        side = self.space.side(self.space.full) or None
        whole = errors(self.model, self.task, side, self.device)
        self.model.cpu()
        return small, figures | {f"full_{name}": value for name, value in whole.items() if name.endswith("error")}

    def example(self, candidate: Candidate) -> Any:
        """Inputs with a batch of 2, as the network's forward takes them."""
        return self.space.inputs(self.model, candidate, batch=2)

    def record(self, method: Method, said: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json says beyond the cut."""
        candidate = Candidate(said["candidate"])
        costs: dict[str, float] = {name: int(column[0]) for name, column in self.space.cost_table([candidate]).items()}
        if "latency_ms" in self.file.budget.asked():
            costs["latency_ms"] = self._latency_ms(candidate)
        return {
            "method": method.name,
            "settings": settings_of(method),
            "decides": {
                "allocation": method.allocates,
                "selection": method.selects,
                "weights": method.weights,
            },
            "notes": said["notes"],
            "key": candidate.key,
            "candidate": list(candidate),
            "axes": [axis.name for axis in self.space.axes],
            "resolution": list(self.space.side(candidate)) or None,
            "ranking": said["ranking"],
            "costs": costs,
            "full_costs": self.space.full_costs,
            "limits": self._limits,
            "errors": dict(figures),
            "training": asdict(self.file.training) | {"epochs": figures["epochs"]},
            "preprocessing": dict(self.task.preprocessing),
            "fingerprint": {"weights": digest(state_of(self.model)), "space": self.space.fingerprint},
        }

    @cached_property
    def _limits(self) -> dict[str, float]:
        """Absolute limits; the full network is measured once where a share of its latency is asked for."""
        budget = self.file.budget
        return budget.limits(self.space, self._latency_ms(self.space.full) if budget.needs_full("latency_ms") else None)

    def _within_latency(
        self, pruning: Pruning, method: Method, limits: Mapping[str, float], limit_ms: float
    ) -> tuple[float, Any]:
        """The most multiply-adds at which the method's network is within the latency, and that network."""
        least = float(self.space.cost_table([self.space.smallest])["macs"][0])
        full = self.space.full_costs["macs"]
        most = min(limits.get("macs", full), full)
        best, low, high = None, least, most
        for step in range(_STEPS + 1):
            macs = most if step == 0 else (low + high) / 2
            proposal = pruning.propose(method, Aim(limits={**limits, "macs": macs}))
            if self._latency_ms(proposal.candidate) <= _MARGIN * limit_ms:
                best, low = (macs, proposal), macs
            else:
                high = macs
            if best is not None and step == 0:
                break
        if best is None:
            raise ValueError(
                f"{method.name} finds no network within latency_ms={limit_ms:g}: its smallest takes "
                f"{self._latency_ms(self.space.smallest):.3g} ms here; raise it, or allow lower resolutions or depths"
            )
        return best

    def _check_latency(self, method: Method, candidate: Candidate, limit_ms: float) -> None:
        found = self._latency_ms(candidate)
        if found > limit_ms:
            raise ValueError(
                f"{method.name} found a network that takes {found:.3g} ms, over latency_ms={limit_ms:g}; give a lower "
                "macs beside it, since a method that trains aims at multiply-adds"
            )

    def _latency_ms(self, candidate: Candidate) -> float:
        latencies = Latencies(
            self.folder, model=self.model, space=self.space, device=self.device, options=self.file.latency
        )
        return latencies.measure([candidate])[0].ms


def _kept_base(study: Path) -> dict[str, Tensor]:
    return read_tensors(study / BASE, read_study_json(study, to_write=False)["fingerprint"]["weights"])


def _begun(part: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of the network under way, if it was begun with the same settings."""
    note = part / "prune.json"
    if note.exists() and read_json(note) != settings:
        raise FileExistsError(
            f"{part} holds what another `prune` left unfinished; remove it, or give the method and budget it "
            "was begun with"
        )
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_atomic(note, to_json(dict(settings)))
    except OSError as error:
        raise OSError(error.errno, f"{part} can't be made ({error.strerror}); choose a folder that can") from error
    return part


def source(name: str | Path) -> tuple[StudyFile, Path | None]:
    """A study file by path, by name, or from a study's folder; the folder where it is one."""
    folder = Path(name)
    return read(name), folder if (folder / STUDY_JSON).exists() else None

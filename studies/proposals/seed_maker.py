"""Makes the seed candidates of a study, and keeps what pruning methods proposed."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from ...pruners import Method
from ...search import compound
from ...spaces import Candidate, Scores, threshold_candidate
from ..disk.artifacts import Artifacts
from ..trials.events import Listener, Proposed
from .pruning import Pruning, method_named, settings_of
from .seeds import Aim, Seed


@dataclass(frozen=True, kw_only=True)
class SeedMaker:
    """Makes a study's seeds, and keeps in its folder what methods proposed: nothing is asked twice.

    Attributes:
        pruning: asks the methods.
        artifacts: of the study.
        scores: the study's own ranking.
        say: told of every `Proposed`, and of every `Epoch` of one that trains.
    """

    pruning: Pruning
    artifacts: Artifacts
    scores: Scores
    say: Listener | None = None

    def __call__(self, name: str, aim: Aim) -> Seed:
        """The seed of a name, as large as the aim allows."""
        space = self.pruning.space
        if name == "compound":
            return Seed(name=name, candidate=compound(space, aim.limits))
        if name == "magnitude":
            candidate = threshold_candidate(space, self.scores, aim.limits, depth=aim.depth, resolution=aim.resolution)
            return Seed(name=name, candidate=candidate)
        method = method_named(name)
        if method.needs == "nothing" and not method.selects:
            proposal = self.pruning.propose(method, aim)
            return Seed(name=name, candidate=proposal.candidate)
        return self.ask(method, aim)

    def ask(self, method: Method, aim: Aim) -> Seed:
        """What a method proposes as large as the aim allows; asked once, also over several processes."""
        said = self._said(method, aim)
        named = {name: said[name] for name in ("ranking", "weights", "notes")}
        return Seed(name=method.name, candidate=Candidate(said["candidate"]), **named)

    def _said(self, method: Method, aim: Aim) -> dict[str, Any]:
        asked = [sorted(aim.limits.items()), aim.depth, aim.resolution, self.pruning.seed, settings_of(method)]
        key = f"{method.name}-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}"
        said = self.artifacts.proposed(key)
        if said is not None:
            return said
        started = time.perf_counter()
        state = self.artifacts.folder / "proposals" / f"{key}.pt"
        state.parent.mkdir(exist_ok=True)
        proposal = self.pruning.propose(method, aim, state=state, say=self.say)
        seconds = time.perf_counter() - started
        said = self.artifacts.keep(key, method.name, proposal, selects=method.selects, seconds=seconds)
        state.unlink(missing_ok=True)
        if self.say is not None:
            costs = self.pruning.space.cost_table([proposal.candidate])
            whole = {name: int(column[0]) for name, column in costs.items()}
            self.say(Proposed(method=method.name, seconds=seconds, costs=whole))
        return said

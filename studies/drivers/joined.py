"""A search that several drivers do together: each fills its own slots, and the database is all that they share.

Start reading at `JoinedSearch.run`. Trials are proposed one driver at a time (`Crew.turn`), each from all that every
driver has told by then, so none is proposed twice; there are no batches, and no two searches are the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import final

from ..proposals.proposer import Proposer
from ..trials.outcome import Failed, Outcome
from ..trials.trial import Trial
from .crew import Crew
from .loop import Search

logger = logging.getLogger("secateur")

_WAIT_S = 0.5  # between two looks at what others do, where there is nothing else to do


@final
class JoinedSearch:
    """Brings a ledger to a number of trials, together with others.

    Args:
        search: what one driver does.
        crew: the drivers.
        renew: a proposer that knows no trial yet.
        fetch: has what a trial of another driver is built from in the folder.
    """

    def __init__(
        self, search: Search, crew: Crew, *, renew: Callable[[], Proposer], fetch: Callable[[Trial], object]
    ) -> None:
        self._search = search
        self._ledger = search.ledger
        self._dispatcher = search.dispatcher
        self._crew = crew
        self._renew = renew
        self._fetch = fetch
        self._known = 0  # trials that the proposer knows, from number 0
        self._closed: set[int] = set()  # those of which it knows the outcome
        self._stale = False  # whether it must be made anew
        self._exhausted_at = -1

    def run(self, trials: int) -> None:
        """Go on until there are so many trials in all, or nothing new within the budget, and all are told.

        Raises:
            RuntimeError: the last ten trials all failed, or every trial so far raised the same.
            KeyboardInterrupt: somebody asked to stop; what was running has ended and is kept.
        """
        try:
            self._run(trials)
        except BaseException:
            with suppress(Exception):  # what it ends for is said, not this
                for trial, outcome in self._dispatcher.rest():
                    self._take(trial, outcome)
            raise

    def _run(self, trials: int) -> None:
        waiting = False
        self._search.dispatcher.open()
        self._catch_up()
        while True:
            while self._dispatcher.free:
                trial = self._adopt() or self._propose(trials)
                if trial is None:
                    break
                if trial.outcome is None:
                    self._dispatcher.submit(trial, [one for one in self._ledger.trials if one.told])
            if self._dispatcher.busy:
                self._take(*self._dispatcher.next())
                continue
            running = [trial for trial in self._ledger.trials if not trial.told]
            if not running and (len(self._ledger.trials) >= trials or self._exhausted_at == len(self._ledger.trials)):
                return
            self._dispatcher.heed()
            if running and not waiting:
                waiting = True
                logger.info("waiting for %d trials of other drivers", len(running))
            time.sleep(_WAIT_S)
            self._catch_up()

    def _catch_up(self) -> None:
        """Learn what other drivers did."""
        self._ledger.refresh()
        if self._stale:
            self._search = replace(self._search, proposer=self._renew())
            self._known, self._closed, self._stale = 0, set(), False
        for trial in self._ledger.trials[self._known :]:
            self._search.proposer.recall(trial)
        self._known = len(self._ledger.trials)
        for trial in self._ledger.trials:
            if trial.told and trial.number not in self._closed:
                self._search.proposer.close([trial])
                self._search.watch.recall(trial)
                self._closed.add(trial.number)

    def _propose(self, trials: int) -> Trial | None:
        """A new trial of our own; None where there are enough, or nothing is left to try."""
        if len(self._ledger.trials) >= trials or self._exhausted_at == len(self._ledger.trials):
            return None
        with self._crew.turn():
            self._catch_up()
            number = len(self._ledger.trials)
            if number >= trials:
                return None
            proposed = self._search.proposer.propose(number)
            if proposed is None:
                self._search.exhausted()
                self._exhausted_at, self._stale = number, True
                return None
            written = self._ledger.add(proposed, owner=self._crew.id)
            if written.number == number:
                self._known = number + 1
                return written
            # The server took our turn back while it was away, or thought us gone.
            self._stale = True
            earlier = [one for one in self._ledger.trials[: written.number] if one.identity == written.identity]
            self._catch_up()
            if earlier:
                said = f"another driver proposed the same at the same time, as trial {earlier[0].number}"
                return self._told(self._ledger.park(written, Failed(reason=said)))
            return written

    def _adopt(self) -> Trial | None:
        """A running trial whose driver is gone, ours from now on; None where there is none."""
        if self._orphan() is None:
            return None
        with self._crew.turn():
            self._catch_up()
            trial = self._orphan()
            if trial is None:
                return None
            self._ledger.adopt(trial, self._crew.id)
            self._fetch(trial)
            logger.info("trial %d is taken over from a driver that is gone", trial.number)
            return trial if trial.outcome is None else self._told(trial)

    def _orphan(self) -> Trial | None:
        owners = {number: owner for number, owner in self._ledger.owners.items() if owner != self._crew.id}
        gone = {owner: self._crew.gone(owner) for owner in set(owners.values())}
        for trial in self._ledger.trials:
            owner = self._ledger.owners.get(trial.number)
            if not trial.told and (owner is None or gone.get(owner, False)):
                return trial
        return None

    def _take(self, trial: Trial, outcome: Outcome) -> None:
        """Tell a trial of ours that ended, unless another driver has adopted it meanwhile."""
        with self._crew.turn():
            self._catch_up()
            if self._ledger.trials[trial.number].told or self._ledger.owners.get(trial.number) != self._crew.id:
                logger.warning(
                    "trial %d was taken over by another driver while this one was away; its outcome here is dropped",
                    trial.number,
                )
                return
            self._told(self._ledger.park(trial, outcome))

    def _told(self, trial: Trial) -> Trial:
        self._search.take(trial)
        self._closed.add(trial.number)
        return self._ledger.trials[trial.number]

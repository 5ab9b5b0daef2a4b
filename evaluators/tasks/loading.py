"""Batches through a `DataLoader` of PyTorch's: the user's own, or one of ours around a dataset.

The workers, the order, the batches and the collating are those of the loader as it was given. What is added is a seed:
the order and whatever a batch's examples draw come from it and from the batch alone, so that every pass can be had
again, whichever process reads it; global generators stay as they are. What goes wrong in a worker comes back as a
sentence.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, get_worker_info

from ..modes import derived_seed
from .examples import batch_of, described, read

logger = logging.getLogger("secateur")

Rows = tuple[Tensor, Tensor, Tensor | None]
"""`(n, c, *sides)` images, `(n, ...)` targets, and their `(n,)` places, where these are known."""

_KEPT = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "prefetch_factor", "multiprocessing_context")
_BITS = 0xFFFFFFFF


def states() -> tuple[Any, ...]:
    """Where the global generators are that datasets draw from."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def put_back(kept: tuple[Any, ...]) -> None:
    """Set the global generators to where they were."""
    torch.set_rng_state(kept[0])
    np.random.set_state(kept[1])
    random.setstate(kept[2])


def sow(*numbers: int) -> None:
    """Seed the global generators that datasets draw from."""
    seed = derived_seed(*numbers)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & _BITS)
    random.seed(seed)


@contextmanager
def sown(*numbers: int) -> Iterator[None]:
    """Seed the global generators, and put them back afterwards; workers have theirs to themselves."""
    kept = None if get_worker_info() is not None else states()
    try:
        sow(*numbers)
        yield
    finally:
        if kept is not None:
            put_back(kept)


class Keyed(Dataset[Any]):
    """Whole batches as a dataset: a key is a seed with the places of the batch's examples."""

    def __init__(self, rows: Callable[[list[Any]], Rows]) -> None:
        """Keep what gives the rows of some places."""
        self.rows = rows

    def __getitems__(self, key: tuple[int, list[Any]]) -> Rows | Exception:
        """The rows; an error is given back, because raised in a worker it would come with the worker's traceback."""
        seed, places = key
        with sown(seed):
            try:
                return self.rows(places)
            except Exception as error:  # noqa: BLE001 - raised again by `batches`
                return error


class Streamed(IterableDataset[Any]):
    """An iterable dataset whose draws come from a seed."""

    def __init__(self, dataset: Any, seed: int) -> None:
        """Keep both."""
        self.dataset, self.seed = dataset, seed

    def __iter__(self) -> Iterator[Any]:
        """The dataset's examples."""
        worker = get_worker_info()
        sow(self.seed, 0 if worker is None else worker.id)
        if callable(getattr(self.dataset, "set_epoch", None)):
            self.dataset.set_epoch(self.seed & 0x7FFFFFFF)
        yield from self.dataset


class Passes:
    """Opens passes over keyed batches; workers that persist are kept between them."""

    def __init__(self, rows: Callable[[list[Any]], Rows], *, persist: bool = False, **options: Any) -> None:
        """Keep the options of the `DataLoader`."""
        self._rows, self._persist, self._options = rows, persist, options
        self._keys: list[tuple[int, list[Any]]] = []
        self._loader: DataLoader[Any] | None = None
        self._busy = False

    def __getstate__(self) -> dict[str, Any]:
        """Without workers, which stay in their process."""
        return self.__dict__ | {"_keys": [], "_loader": None, "_busy": False}

    def __call__(self, seed: int, batches: Sequence[list[Any]]) -> Iterator[Rows]:
        """The rows of every batch, in order."""
        keys = [(derived_seed(seed, number), places) for number, places in enumerate(batches)]
        if not self._persist or self._busy:
            yield from _rows_of(self._made(keys, seed))
            return
        self._busy = True
        try:
            self._keys[:] = keys
            self._loader = self._loader or self._made(self._keys, seed)
            yield from _rows_of(self._loader)
        finally:
            self._busy = False

    def _made(self, keys: list[tuple[int, list[Any]]], seed: int) -> DataLoader[Any]:
        sampler: Any = keys
        drawn = torch.Generator().manual_seed(seed)  # so that it draws the workers' seeds from no global one
        options = self._options | {"persistent_workers": self._persist and keys is self._keys, "generator": drawn}
        return DataLoader(Keyed(self._rows), batch_sampler=sampler, collate_fn=_as_it_is, **options)


class Loaded:
    """The examples of a `DataLoader`, as it gives them."""

    def __init__(self, name: str, loader: DataLoader[Any]) -> None:
        """Look at the loader; nothing is read yet.

        Raises:
            ValueError: nothing says how many examples it has, or they come one at a time.
        """
        self.name, self.loader = name, loader
        self.dataset: Any = loader.dataset
        self.streams = isinstance(loader.dataset, IterableDataset)
        self.sampler: Any = loader.batch_sampler
        if loader.batch_size is None and (self.streams or self.sampler is None):
            raise ValueError(f"{name} is a DataLoader with batch_size=None; give it the number of examples a batch")
        try:
            self._length = self._examples()
        except TypeError:
            what = type(loader.dataset).__name__
            raise ValueError(
                f"{name} has a dataset ({what}) or sampler without a length; give it a __len__, the number "
                "of its examples"
            ) from None
        if not self._length:
            raise ValueError(f"the {name} split is empty; give at least one example")
        self.shuffles = not self.streams and not isinstance(getattr(self.sampler, "sampler", None), SequentialSampler)
        if name == "train" and not self.shuffles and not self.streams:
            logger.warning("train comes in the same order in every epoch; give its DataLoader shuffle=True")
        options = {one: getattr(loader, one) for one in _KEPT}
        self._passes = Passes(self._rows, persist=loader.persistent_workers, **options)

    def __len__(self) -> int:
        """Number of examples of a pass."""
        return self._length

    @property
    def batch(self) -> int | None:
        """Examples a batch; None where the loader's own sampler decides."""
        size: int | None = self.loader.batch_size
        return size

    def count(self, batch: int | None, train: bool) -> int:
        """Number of batches."""
        if self.streams:
            size = batch or self.batch or 1
            return self._length // size if self.loader.drop_last else math.ceil(self._length / size)
        return len(self._sampler(batch))

    def batches(self, batch: int | None, train: bool, seed: int | None) -> Iterator[Rows]:
        """A pass: as the loader gives it, but in an order of the seed's; None is always the same one."""
        if self.streams:
            yield from self._stream(batch, seed or 0, self.loader.num_workers)
            return
        yield from self._passes(seed or 0, self._order(batch, train, seed))

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor, list[int]]:
        """So many examples from all over the split, fewer where there are fewer, as training sees them; read here."""
        if self.streams:
            found, seen = list[Rows](), 0
            for rows in self._stream(None, seed, 0):
                found.append(rows)
                seen += len(rows[0])
                if seen >= count:
                    break
            read = torch.cat([rows[0] for rows in found])[:count]
            return read, torch.cat([rows[1] for rows in found])[:count], list(range(len(read)))
        whole = [place for places in self._order(None, False, 0) for place in places]
        chosen = sorted(whole[:: max(1, len(whole) // count)][:count])
        with sown(seed):
            images, targets, _ = self._rows(chosen)
        return images, targets, chosen

    def _examples(self) -> int:
        size = self.loader.batch_size
        if self.streams:
            return len(self.dataset)
        if size is None:
            with sown(0):
                return sum(len(places) for places in self.sampler)
        length = len(self.sampler.sampler)
        return length // size * size if self.loader.drop_last else length

    def _sampler(self, batch: int | None) -> Any:
        if batch is None or batch == self.loader.batch_size:
            return self.sampler
        if type(self.sampler) is not BatchSampler:
            raise ValueError(
                f"{self.name} has a batch_sampler of its own; leave `batch` out of the training's settings"
            )
        return BatchSampler(self.sampler.sampler, batch, self.loader.drop_last)

    def _order(self, batch: int | None, train: bool, seed: int | None) -> list[list[Any]]:
        """The places of every batch."""
        sampler = self._sampler(batch)
        drawing: tuple[Any, ...] = (self.loader, sampler, getattr(sampler, "sampler", None))
        for one in drawing:
            if isinstance(generator := getattr(one, "generator", None), torch.Generator):
                generator.manual_seed(derived_seed(seed or 0))
            if callable(getattr(one, "set_epoch", None)):
                one.set_epoch((seed or 0) & 0x7FFFFFFF)
        with sown(seed or 0):
            found = [list(places) for places in sampler]
            if train and seed is None and not self.shuffles:  # its beginning must stand for the whole
                flat = [place for places in found for place in places]
                mixed = iter([flat[place] for place in torch.randperm(len(flat)).tolist()])
                found = [[next(mixed) for _ in places] for places in found]
        return found

    def _rows(self, places: list[Any]) -> Rows:
        """The examples of some places, as the loader puts them together."""
        named = f"{self.name}[{', '.join(map(str, places[:3]))}{', ...' if len(places) > 3 else ''}]"
        if callable(together := getattr(self.dataset, "__getitems__", None)):
            try:
                items = together(places)
            except Exception:  # noqa: BLE001 - said again by the place
                items = [read(f"{self.name}[{place}]", self.dataset, place) for place in places]
        else:
            items = [read(f"{self.name}[{place}]", self.dataset, place) for place in places]
        images, targets = batch_of(f"the batch {named}", self._collated(named, items))
        known = len(places) == len(targets) and all(isinstance(place, int) for place in places)
        return images, targets, torch.tensor(places) if known else None

    def _collated(self, named: str, items: list[Any]) -> Any:
        try:
            return self.loader.collate_fn(items)
        except Exception as error:
            what = described(items[0]) if items else "nothing"
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ValueError(
                f"{named} can't be put together, the loader's collate_fn raised {said}; the first example is {what}"
            ) from error

    def _stream(self, batch: int | None, seed: int, workers: int) -> Iterator[Rows]:
        """A pass over an iterable dataset, which must have as many examples as it says."""
        options = {one: getattr(self.loader, one) for one in _KEPT}
        if not workers:
            options |= {"num_workers": 0, "prefetch_factor": None, "timeout": 0, "multiprocessing_context": None}
        size = batch or self.batch
        loader: DataLoader[Any] = DataLoader(
            Streamed(self.dataset, seed),
            batch_size=size,
            drop_last=self.loader.drop_last,
            collate_fn=self.loader.collate_fn,
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
        seen, number, own = 0, 0, states()
        batches = iter(loader)
        while True:
            outside = states()
            put_back(own)
            try:
                given = next(batches)
            except StopIteration:
                break
            except (OSError, MemoryError):
                raise
            except Exception as error:
                said = str(error).strip().splitlines()[-1] if str(error).strip() else ""
                raise ValueError(f"{self.name} raised {type(error).__name__} after {seen} examples: {said}") from error
            finally:
                own = states()
                put_back(outside)
            images, targets = batch_of(f"the batch {number} of {self.name}", given)
            seen, number = seen + len(images), number + 1
            yield images, targets, None
        if number != self.count(batch, False):
            raise ValueError(
                f"{self.name} gave {seen} examples in {number} batches, and its length is {self._length}; with workers "
                "each must give its share alone (torch.utils.data.get_worker_info)"
            )


def _rows_of(loader: DataLoader[Any]) -> Iterator[Rows]:
    for rows in loader:
        if isinstance(rows, Exception):
            raise rows
        yield rows


def _as_it_is(rows: Any) -> Any:
    return rows

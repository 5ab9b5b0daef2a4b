"""Messages of any size over a pair of sockets: the driver's end never blocks, the worker's end does.

A message is its length, as eight bytes, and its bytes. A pipe of `multiprocessing` won't do: its two ends block each
other when both send something large, and a worker that dies within a message leaves its reader waiting.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import final

_LENGTH = struct.Struct("!Q")
_AT_ONCE = 2**20  # bytes


@final
class Channel:
    """An end that never blocks: what can't be sent yet waits, and what arrived in part is kept until the rest comes."""

    def __init__(self, end: socket.socket) -> None:
        """Take over one of a pair of sockets."""
        end.setblocking(False)
        self._end = end
        self._leaving: deque[memoryview] = deque()
        self._arrived = bytearray()

    @property
    def behind(self) -> bool:
        """Whether something is still to be sent: `push` when the socket can be written."""
        return bool(self._leaving)

    def fileno(self) -> int:
        """For selectors."""
        return self._end.fileno()

    def post(self, message: bytes) -> None:
        """Send a message, or have `push` send the rest of it."""
        self._leaving += [memoryview(_LENGTH.pack(len(message))), memoryview(message)]
        self.push()

    def push(self) -> None:
        """Send what the socket takes; nothing more once nobody reads there."""
        try:
            while self._leaving:
                first = self._leaving[0]
                rest = first[self._end.send(first[:_AT_ONCE]) :]
                if rest:
                    self._leaving[0] = rest
                else:
                    self._leaving.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the reader is gone; whoever pulls is told
            self._leaving.clear()

    def pull(self) -> tuple[list[bytes], bool]:
        """The messages that have arrived whole, and whether more may come."""
        more = True
        try:
            while more:
                piece = self._end.recv(_AT_ONCE)
                self._arrived += piece
                more = bool(piece)
        except BlockingIOError:
            pass
        except OSError:
            more = False
        found = []
        while (message := self._first()) is not None:
            found.append(message)
        return found, more

    def close(self) -> None:
        """Have the other end notice."""
        self._end.close()

    def _first(self) -> bytes | None:
        start = _LENGTH.size
        if len(self._arrived) < start:
            return None
        end = start + _LENGTH.unpack_from(self._arrived)[0]
        if len(self._arrived) < end:
            return None
        message = bytes(memoryview(self._arrived)[start:end])
        del self._arrived[:end]
        return message


def send(end: socket.socket, message: bytes) -> None:
    """Send a message, however long it takes.

    Raises:
        OSError: nobody reads any more.
    """
    end.sendall(_LENGTH.pack(len(message)))
    end.sendall(message)


def receive(end: socket.socket) -> bytes:
    """The next message, however long it takes.

    Raises:
        EOFError: nobody sends any more.
    """
    return _exactly(end, _LENGTH.unpack(_exactly(end, _LENGTH.size))[0])


def _exactly(end: socket.socket, count: int) -> bytes:
    whole = bytearray(count)
    empty = memoryview(whole)
    while empty:
        try:
            got = end.recv_into(empty)
        except OSError:
            got = 0
        if not got:
            raise EOFError("nobody sends any more")
        empty = empty[got:]
    return bytes(whole)

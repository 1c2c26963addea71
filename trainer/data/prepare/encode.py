"""Encode documents in worker processes, in order.

Workers are plain processes with one pipe each: no named semaphores, no shared memory, so nothing is left on the
machine however they end. A worker whose parent died reads the end of its pipe and goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from trainer.contract.errors import UserError
from trainer.data.prepare.words import count_words
from trainer.data.store.shard_writer import Encoded
from trainer.data.tokenize.tokenizer import Tokenizer, load_tokenizer

IN_FLIGHT = 3  # chunks that a worker may have: one encoded, one in the pipe, one on the way back


@dataclass(frozen=True)
class Chunk:
    """What became of some documents: those of the training split, those held out, and their digests."""

    train: Encoded
    held_out: Encoded
    duplicates: int  # documents dropped because a held-out set has them


@dataclass(frozen=True)
class SplitRule:
    """Which split a document belongs to: decided by the hash of its text alone."""

    held_out_fraction: float
    known: frozenset[bytes] = frozenset()  # digests of the documents of extra held-out sets

    def __call__(self, text: bytes) -> str | None:
        """Return 'train', 'held_out', or None for a document that an extra held-out set has."""
        digest = document_digest(text)
        if digest in self.known:
            return None
        share = int.from_bytes(digest[:8], "little") / 2**64
        return "held_out" if share < self.held_out_fraction else "train"


def document_digest(text: bytes) -> bytes:
    """Return the digest by which two documents are the same (BLAKE2b, 128 bits, over the UTF-8 text)."""
    return hashlib.blake2b(text, digest_size=16).digest()


class Codec:
    """A tokenizer made ready to write documents in one dtype."""

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self.itemsize = np.dtype(dtype).itemsize
        self.encode = tokenizer.encoder(self.itemsize)
        self.end = tokenizer.eos_id.to_bytes(self.itemsize, "little")
        self.eos_id, self.vocab_size = tokenizer.eos_id, tokenizer.vocab_size
        self.eos_ends_documents = tokenizer.eos_ends_documents

    def check(self, tokens: bytes, documents: int) -> None:
        """Raise UserError where an id is outside the vocabulary, or the end token is not just once in each document."""
        ids = np.frombuffer(tokens, dtype=f"<u{self.itemsize}")
        if len(ids) and int(ids.max()) >= self.vocab_size:
            raise UserError(
                f"the tokenizer gave id {ids.max()}, outside its vocabulary of {self.vocab_size}: its file is damaged"
            )
        if self.eos_ends_documents and (ends := int(np.count_nonzero(ids == self.eos_id))) != documents:
            raise UserError(
                f"the tokenizer's end token, id {self.eos_id}, is {ends - documents} times in the text of documents, "
                "which would end there; name another end token with data.tokenizer.eos"
            )


def encode_chunk(texts: Sequence[bytes], codec: Codec, rule: SplitRule) -> Chunk:
    """Encode documents, given as UTF-8, and share them out to their splits."""
    sides: dict[str, list[bytes]] = {"train": [], "held_out": []}
    duplicates = 0
    for text in texts:
        side = rule(text)
        if side is None:
            duplicates += 1
        else:
            sides[side].append(text)
    train, held_out = (_encode(sides[side], codec) for side in ("train", "held_out"))
    return Chunk(train, held_out, duplicates)


def _encode(texts: list[bytes], codec: Codec) -> Encoded:
    encoded = [codec.encode(text) + codec.end for text in texts]
    tokens = b"".join(encoded)
    codec.check(tokens, len(texts))
    return Encoded(
        tokens=tokens,
        lengths=[len(document) // codec.itemsize for document in encoded],
        text_bytes=[len(text) for text in texts],
        words=count_words(texts),
    )


class Encoders:
    """A pool of encoding processes. Use as a context manager; leaving it ends them."""

    def __init__(self, tokenizer_directory: Path, dtype: str, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(max(1, processes)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, str(tokenizer_directory), dtype), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()

    def encode(self, chunks: Iterable[list[bytes]], rule: SplitRule) -> Iterator[tuple[list[bytes], Chunk]]:
        """Yield each chunk of documents with what became of it, in the order given, a bounded number ahead.

        The next chunk goes to whoever has the fewest, so a process on a busy core holds nobody up.
        """
        for pipe in self._pipes:
            pipe.send(rule)
        given: dict[int, list[bytes]] = {}
        sent: dict[Connection, deque[int]] = {pipe: deque() for pipe in self._pipes}
        done: dict[int, Chunk] = {}
        expected = 0
        for number, texts in enumerate(chunks):
            pipe = min(self._pipes, key=lambda pipe: len(sent[pipe]))
            self._send(pipe, texts)
            given[number] = texts
            sent[pipe].append(number)
            while min(map(len, sent.values())) == IN_FLIGHT or len(given) > 2 * IN_FLIGHT * len(sent):
                self._receive(sent, done)
                while expected in done:
                    yield given.pop(expected), done.pop(expected)
                    expected += 1
        while given:
            while expected not in done:
                self._receive(sent, done)
            yield given.pop(expected), done.pop(expected)
            expected += 1

    def _send(self, pipe: Connection, texts: list[bytes]) -> None:
        try:
            pipe.send(texts)
        except (BrokenPipeError, ConnectionResetError):
            raise _worker_died() from None

    def _receive(self, sent: dict[Connection, deque[int]], done: dict[int, Chunk]) -> None:
        """Wait for an answer, and take all that are there."""
        for pipe in wait([pipe for pipe, numbers in sent.items() if numbers]):
            assert isinstance(pipe, Connection)
            try:
                answer = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise _worker_died() from None
            if isinstance(answer, BaseException):
                raise answer
            done[sent[pipe].popleft()] = answer


def _worker_died() -> UserError:
    return UserError(
        "an encoding process was killed, most likely for want of memory; "
        "use fewer with --workers, or cut documents with max_chars, and run the same command again"
    )


def _work(pipe: Connection, tokenizer_directory: str, dtype: str) -> None:
    """Answer chunks of documents until the pipe ends. A thread reads ahead, so neither side waits to be read."""
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    threading.Thread(target=_read_into, args=(pipe, inbox), daemon=True).start()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            codec = Codec(load_tokenizer(tokenizer_directory), dtype)
        except UserError as error:  # for the parent, which may have given the set up already
            pipe.send(error)
            return
        rule = SplitRule(0.0)
        while (message := inbox.get()) is not None:
            if isinstance(message, SplitRule):
                rule = message
                continue
            assert isinstance(message, list)
            try:
                pipe.send(encode_chunk(message, codec, rule))
            except Exception as error:  # handed to the parent, which raises it
                pipe.send(error)


def _read_into(pipe: Connection, inbox: queue.SimpleQueue[object]) -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        inbox.put(None)


def usable_cores() -> int:
    """Return the number of cores that this process may use, which Slurm and containers restrict."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""A process that imports torch once and forks a rank whenever it is asked to.

    python -m trainer.node.rank_server --socket-fd 5 torch deepspeed

Starting a rank costs a fork instead of seconds of imports. The server stays single-threaded and runs no tensor
operation, so that forking is safe (no OpenMP pool exists yet). It speaks JSON lines over the inherited socket:

    to it    {"start": ID, "argv": [...], "env": {...}, "cwd": DIR, "log": FILE}     {"signal": ID, "number": 15}
    from it  {"ready": SECONDS, "threads": N}     {"started": ID, "pid": PID}     {"exited": ID, "code": CODE}

CODE is that of `subprocess`: negative for a signal. When the socket closes (its owner ended, in whatever way) every
rank is ended, and when the server ends the kernel kills its ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from trainer.node.rank import die_with, redirect, run_and_catch
from trainer.node.stacks import ASK, dump_on_signal

CUDA_NOT_INITIALISED = 3  # CUDA_ERROR_NOT_INITIALIZED of cuda.h
GRACE_SECONDS = 10.0  # between TERM and KILL when the owner is gone


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Fork ranks from a process that has imported torch.")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("modules", nargs="*", help="imported once, before the first fork")
    arguments = parser.parse_args()
    signal.signal(ASK, signal.SIG_IGN)  # a rank that was just forked must not die of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the owner, who closes the socket
    began = time.monotonic()
    for module in arguments.modules:
        _preload(module)
    gc.collect()
    gc.freeze()  # shared pages stay shared: the collector never touches them
    server = RankServer(socket.socket(fileno=arguments.socket_fd))
    server.send({"ready": time.monotonic() - began, "threads": count_threads()})
    cold = touches_cuda()
    request = server.serve()
    if request is not None:
        run_cold(request) if cold else run_rank(request)


def _preload(module: str) -> None:
    """Import a module; one that fails will fail again in the rank's own log, so here it is only noted."""
    try:
        importlib.import_module(module)
    except Exception:
        traceback.print_exc()


def count_threads() -> int:
    """Return the number of threads of this process (0 where the system cannot tell)."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def touches_cuda() -> bool:
    """Whether something here has initialised CUDA, which no fork of this process can use then.

    The driver says so: cuDeviceGetCount needs cuInit. Where no driver is loaded, nothing has.
    """
    maps = Path("/proc/self/maps")
    if not maps.is_file() or "libcuda.so" not in maps.read_text():
        return False
    count = ctypes.c_int()
    return bool(ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count)) != CUDA_NOT_INITIALISED)


class RankServer:
    """The loop: requests in, forks, exits out."""

    def __init__(self, owner: socket.socket) -> None:
        self.owner = owner
        self.pids: dict[int, str] = {}  # pid -> id
        self.buffer = b""
        self.wake_read, self.wake_write = os.pipe()
        for end in (self.wake_read, self.wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def send(self, message: dict[str, Any]) -> None:
        """Tell the owner one thing as a line of JSON; an owner that is gone is not missed here."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the owner is gone: serve() sees it next
            self.owner.sendall(json.dumps(message).encode() + b"\n")

    def serve(self) -> dict[str, Any] | None:
        """Serve until the owner is gone. Return the request in a new rank's process, None in the server's own."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.owner, selectors.EVENT_READ)
            selector.register(self.wake_read, selectors.EVENT_READ)
            while True:
                selector.select()
                self._forget_wake()  # before looking: a rank that ends after the look wakes the next select
                self._reap()
                requests = self._receive()
                if requests is None:
                    break
                for request in requests:
                    if "signal" in request:
                        self._signal(request["signal"], request["number"])
                    elif self._fork(request) == 0:
                        return request
        self._end_all()
        return None

    def _forget_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_read, 4096):
                pass

    def _receive(self) -> list[dict[str, Any]] | None:
        """Return the complete requests that have arrived, None once the owner has gone."""
        self.owner.setblocking(False)
        try:
            while True:
                try:
                    part = self.owner.recv(65536)
                except BlockingIOError:
                    break
                except ConnectionResetError:
                    return None
                if not part:
                    return None
                self.buffer += part
        finally:
            self.owner.setblocking(True)
        *lines, self.buffer = self.buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def _fork(self, request: dict[str, Any]) -> int:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()  # a group of its own, so that what the rank starts is ended with it
            die_with(server)
            self.owner.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            return 0
        self.pids[pid] = request["start"]
        self.send({"started": request["start"], "pid": pid})
        return pid

    def _signal(self, identity: str, number: int) -> None:
        for pid, known in self.pids.items():
            if known == identity:
                _signal_group(pid, number) if number == signal.SIGKILL else os.kill(pid, number)

    def _reap(self) -> None:
        while self.pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _signal_group(pid, signal.SIGKILL)  # helpers that the rank left behind
            identity = self.pids.pop(pid, None)
            if identity is not None:
                self.send({"exited": identity, "code": os.waitstatus_to_exitcode(status)})

    def _end_all(self) -> None:
        for pid in list(self.pids):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.pids and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        for pid in list(self.pids):
            _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def run_rank(request: dict[str, Any]) -> None:
    """Turn this fresh fork into the rank that was asked for, and run its program as `python ARGV` would."""
    redirect(Path(request["log"]))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    faulthandler.enable()
    dump_on_signal(Path(request["log"]))
    _set_threads(request["env"])
    sys.exit(run_and_catch(request["argv"], Path(request["cwd"]))[0])


def run_cold(request: dict[str, Any]) -> None:
    """Turn this fork into a new process that imports everything itself: slower, and right whatever was preloaded."""
    os.chdir(request["cwd"])
    words = [sys.executable, "-m", "trainer.node.logged", request["log"], *request["argv"]]
    os.execve(sys.executable, words, request["env"])  # noqa: S606  (a list of words, no shell)


def _set_threads(environment: dict[str, str]) -> None:
    """OpenMP read its variable when torch was loaded, so the rank's own number must be set by call."""
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    main()

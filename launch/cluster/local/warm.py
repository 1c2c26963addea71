"""The owner's side of `trainer.node.rank_server`: start it, ask it for ranks, hear how they end."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.cluster.job import JobSpec
from launch.cluster.this_machine import local_gpus
from trainer.contract.errors import UserError
from trainer.node.compile_cache import with_compile_cache
from trainer.node.failure import last_error_line

# All that a rank of `trainer.train` imports. The last is what ZeRO imports inside the first step, with all of torch's
# compiler behind it, whatever the optimizer: two seconds of each rank otherwise.
PRELOAD = ("torch", "deepspeed", "trainer.session", "torch._dynamo", "deepspeed.runtime.zero.muon.original_muon")
# Asked through NVML, CUDA stays untouched: a fork of a process that has touched it cannot use it.
UNTOUCHED = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# While the server imports, no library may start a thread: a fork would copy its locks but not the thread.
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class RankPool:
    """A rank server as a child of this process. It starts with the first rank and ends with `close`."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        preload: Sequence[str] = PRELOAD,
        python: str = sys.executable,
    ) -> None:
        self.environment = dict(environment)
        self.log = log
        self.preload = tuple(preload)
        self.python = python
        self.server: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        self.buffer = b""

    def start(self) -> None:
        """Start the server without waiting for its imports; asking for ranks may begin at once."""
        if self.server is not None:
            return
        ours, theirs = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [self.python, "-m", "trainer.node.rank_server", "--socket-fd", str(theirs.fileno()), *self.preload]
        with theirs, self.log.open("ab") as log:
            self.server = subprocess.Popen(
                command,
                env={**self.environment, **SINGLE_THREADED, **UNTOUCHED},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the ranks in order
            )
        self.socket = ours

    def fork(self, identity: str, argv: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> None:
        """Ask for one rank."""
        self.start()
        self._send({"start": identity, "argv": list(argv), "env": dict(environment), "cwd": str(cwd), "log": str(log)})

    def signal(self, identity: str, number: int) -> None:
        """Send a signal to a rank; one that has ended is left alone."""
        self._send({"signal": identity, "number": int(number)})

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Return what has happened, waiting up to `timeout` seconds for the first event."""
        if self.socket is None:
            return []
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            if not selector.select(timeout):
                return []
        part = self.socket.recv(1 << 20)
        if not part:
            raise UserError(f"the rank server ended: {last_error_line(self.log)} (see {self.log})")
        *lines, self.buffer = (self.buffer + part).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self, timeout: float = 15.0) -> None:
        """End the server, and with it every rank that still runs."""
        if self.server is None or self.socket is None:
            return
        self.socket.close()
        try:
            self.server.wait(timeout)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.server = self.socket = None

    def _send(self, message: dict[str, Any]) -> None:
        assert self.socket is not None, "the server is started by the first fork"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended: events() says so, with its log
            self.socket.sendall(json.dumps(message).encode() + b"\n")


def rank_environment(base: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """Return the environment that all ranks of this machine share: no GPU means DeepSpeed's CPU accelerator."""
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **base}
    if not local_gpus(base):
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return with_compile_cache(environment)


def rank_variables(spec: JobSpec, rank: int) -> dict[str, str]:
    """Return the variables that `torchrun` would give to one rank."""
    node, local = divmod(rank, spec.ranks_per_node)
    values = {
        "RANK": rank,
        "LOCAL_RANK": local,
        "WORLD_SIZE": spec.world_size,
        "LOCAL_WORLD_SIZE": spec.ranks_per_node,
        "GROUP_RANK": node,
    }
    return {name: str(value) for name, value in values.items()}

"""A rank server in which a rank ends just after the server has looked for ranks that ended: unlucky_server.py FD."""

import os
import signal
import socket
import sys
import time

from trainer.node.rank_server import RankServer

server = RankServer(socket.socket(fileno=int(sys.argv[1])))
look = server._reap


def look_and_miss() -> None:
    look()
    for pid in server.pids:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


server._reap = look_and_miss  # type: ignore[method-assign]
if server.serve() is not None:
    time.sleep(60)  # the rank

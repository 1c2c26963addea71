"""The page over HTTP, to this machine alone: who watches from elsewhere forwards the port, as `ssh -L` does."""

from __future__ import annotations

import errno
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from launch.watch.page import NEWS, PAGE, Page
from trainer.contract.errors import UserError

LOOPBACK = "127.0.0.1"
HOSTS = {LOOPBACK, "localhost"}  # another name in a request is a page elsewhere that was led here
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class PageServer(ThreadingHTTPServer):
    """Serves one page. Runs are read when somebody looks, and not more often than the page says."""

    daemon_threads = True

    def __init__(self, page: Page, port: int) -> None:
        self.page, self._lock = page, threading.Lock()
        self._data, self._read = "", float("-inf")
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(f"port {port} cannot be had ({error.strerror}): give another one, or 0 for any") from None

    @property
    def url(self) -> str:
        """Where the page is served."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def data(self) -> str:
        """Return the data of the page, at most half as old as the page asks for news."""
        with self._lock:
            if time.monotonic() - self._read > self.page.seconds / 2:
                self._data, self._read = self.page.data(), time.monotonic()
            return self._data


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "escala", ""

    def do_GET(self) -> None:
        """Answer with the page or its news."""
        if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in HOSTS:
            return self._answer(403, "text/plain", "this page is for this machine alone")
        path = self.path.partition("?")[0]
        try:
            if path in ("/", f"/{PAGE}"):
                return self._answer(200, "text/html", self.server.page.html(self.server.data()))
            if path == f"/{NEWS}":
                return self._answer(200, "text/javascript", self.server.data())
        except UserError as error:  # the runs are gone
            return self._answer(503, "text/plain", str(error))
        return self._answer(404, "text/plain", "there is no such page")

    def _answer(self, code: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(code)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: who watches wants to see runs, not requests."""

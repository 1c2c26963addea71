"""The official Kubernetes client, which is optional: set up from kubeconfig, and its errors in one sentence."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from typing import Any

from trainer.contract.errors import UserError


def official_clients() -> tuple[Any, Any]:
    """Return the official client's interfaces, set up from kubeconfig. Raises UserError where it is not installed."""
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "the Kubernetes client is not installed: `pip install kubernetes`, "
            "or pipe `escala render ...` to `kubectl apply -f -`"
        )
    from kubernetes import client, config

    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints where it looks; our output may be JSON
            config.load_config()
    except config.ConfigException as error:
        raise UserError(f"no Kubernetes cluster is configured here ({error}): set KUBECONFIG") from None
    return client.CustomObjectsApi(), client.CoreV1Api()


class api_errors:  # noqa: N801  (read as a statement: `with api_errors(...):`)
    """Turn the client's errors into one sentence."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        status = getattr(error, "status", None)
        if error is None or isinstance(error, UserError):
            return
        if status == 404:
            hint = "is the JobSet controller installed, and does the namespace exist?"
        elif status == 409:
            hint = "one of that name exists: cancel it, or give the run another name"
        elif status is not None:
            hint = str(getattr(error, "reason", ""))
        elif type(error).__module__.startswith("urllib3"):
            hint = "the cluster's API server cannot be reached"
        else:
            return
        raise UserError(f"Kubernetes did not {self.what}: {hint}{f' (status {status})' if status else ''}") from None

"""Synthetic runs for the tests of the scaling lab: known surfaces, and ledger rows as a sweep writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

SURFACE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # Hoffmann et al. 2022, table A2


def surface_loss(N: Any, D: Any, p: dict[str, float] = SURFACE) -> Any:
    """Return E + A/N^alpha + B/D^beta."""
    return p["E"] + p["A"] / np.asarray(N) ** p["alpha"] + p["B"] / np.asarray(D) ** p["beta"]


def isoflop_grid(budgets: Any, num_sizes: int = 7, width: float = 8.0, p: dict[str, float] = SURFACE) -> Any:
    """Return N, D around the optimum of each budget."""
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    budgets = np.asarray(budgets, float)
    best = G * (budgets / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    N = np.concatenate([np.geomspace(b / width, b * width, num_sizes) for b in best])
    C = np.repeat(budgets, num_sizes)
    return N, C / 6 / N


def ledger_row(cell: str, d_model: int, n_layers: int, tokens: int, loss: float, **changes: Any) -> dict[str, Any]:
    """Return one ledger row with everything filled in."""
    body, vocab = 12 * n_layers * d_model**2, 2048
    head = body + vocab * d_model
    row = {
        "format": 1, "cell": cell, "name": f"{cell}-{body // 1000}K", "run_dir": "runs/x", "status": "done",
        "config_hash": "h", "git_revision": None, "time": "2026-01-01T00:00:00+00:00", "family": "transformer",
        "d_model": d_model, "n_layers": n_layers, "n_heads": 2, "vocab_size": vocab, "context_length": 128,
        "params_embedding": vocab * d_model, "params_position": 0, "params_body": body, "params_head": 0,
        "params_total": head, "step": 100, "tokens": tokens, "unique_tokens": tokens, "tokens_per_step": 4096,
        "flops_exact": 6.6 * head * tokens, "flops_6nd_body": 6.0 * body * tokens,
        "flops_6nd_head": 6.0 * head * tokens, "flops_6nd_total": 6.0 * head * tokens, "eval_set": "embedded",
        "loss": loss, "loss_sem": 0.004, "perplexity": float(np.exp(loss)), "bits_per_byte": None,
        "loss_by_position": [loss + 0.4, loss + 0.1, loss - 0.02], "train_loss": None, "lr": 1e-3,
        "schedule": "cosine", "seed": 0, "trunk": None, "layout": "data=1", "tokens_per_second": None,
        "seconds": None, "tokenizer_hash": "t", "data_hash": "d",
    }  # fmt: skip
    return row | changes


def ladder_rows(num: int = 6, noise: float = 0.002, seed: int = 1) -> list[dict[str, Any]]:
    """Return a fixed-D ladder of `num` sizes with L = 2.9 + 30/N^0.3 and multiplicative noise."""
    random = np.random.default_rng(seed)
    shapes = [(32, 2), (48, 3), (80, 4), (128, 4), (176, 6), (256, 9), (320, 12), (448, 14)][:num]
    rows = []
    for k, (d_model, n_layers) in enumerate(shapes):
        N = 12 * n_layers * d_model**2 + 2048 * d_model
        loss = (2.9 + 30 / N**0.3) * float(np.exp(noise * random.standard_normal()))
        rows.append(ledger_row(f"c{k}", d_model, n_layers, 3_000_000, loss))
    return rows

"""How N counts the parameters of a model and C the FLOPs: the conventions, and the N that the project keeps to."""

from __future__ import annotations

N_CONVENTIONS: dict[str, str] = {
    "head": "body + output head (Porian et al. 2024)",
    "body": "without embeddings and head (Kaplan et al. 2020)",
    "total": "every distinct parameter (Hoffmann et al. 2022)",
}
C_MEANING = {"6nd": "6 N D", "exact": "exact, with attention", "as given": "as the table gives it"}
DEFAULT_N = "head"  # argued in docs/scaling.md, "How N is counted"


def counting_text(convention: str) -> str:
    """Return what N counts, to stand beside it; empty for a table of other people, which does not say."""
    return f"N counts {N_CONVENTIONS[convention]}" if convention in N_CONVENTIONS else ""

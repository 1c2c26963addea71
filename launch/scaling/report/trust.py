"""How far a law may be trusted: its errors on runs that it did not see, and the profile of each parameter."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.scaling.report.axes import factor, legend_above, log_x, plain, plain_number
from launch.scaling.report.figures import BLUE, PALETTE, RED
from launch.scaling.report.hold_out_table import hold_out_grid
from launch.scaling.report.model import Figure, Section
from launch.scaling.trust.certify import Certificate
from launch.scaling.trust.cuts import SHARES
from launch.scaling.trust.quantiles import student_95

WIDE = 5.0  # an interval over a larger factor is drawn on a logarithmic axis

if TYPE_CHECKING:
    from launch.scaling.trust.holdout import HoldOut
    from launch.scaling.trust.profile import Profile


def hold_out_section(held: Sequence[HoldOut], notes: Sequence[str] = ()) -> Section:
    """Return the errors of every law on larger runs, by distance; `held` is sorted, best first."""
    best = held[0]
    chart = Figure(
        "hold_out_error",
        f"The {best.law} law misses larger runs least, by {best.mean:.2%} on average. Mean error of the loss against "
        "the distance from the runs that were fitted.",
        lambda ax: hold_out_errors(ax, held),
    )
    text = f"Each law was fitted to the smaller {shares_text()} of the runs and judged on the rest."
    return Section("Hold-out", [text, *notes], [chart], [hold_out_grid(held)])


def shares_text() -> str:
    """Write the shares of the runs that the fits saw: 50, 65, 80 and 90 %."""
    shown = [f"{100 * share:.0f}" for share in SHARES]
    return f"{', '.join(shown[:-1])} and {shown[-1]} %"


def hold_out_errors(ax: Any, results: Sequence[HoldOut]) -> None:
    """Mean absolute error of every law against the distance from what it was fitted to."""
    farthest = max(float(h.distance.max()) for h in results)
    edges = np.geomspace(1, max(farthest, 2) * 1.01, 7)
    middles = np.sqrt(edges[:-1] * edges[1:])
    for k, h in enumerate(results):
        heights = [h.within(low, high) for low, high in itertools.pairwise(edges)]
        known = [(m, 100 * v) for m, v in zip(middles, heights, strict=True) if v is not None]
        ax.plot(*zip(*known, strict=True), "osD^v<"[k % 6] + "-", ms=4.5, lw=1.3, color=PALETTE[k], label=h.law)
    ax.set_ylim(bottom=0)
    log_x(ax, "size of the run over the largest run of the fit", "mean error of the loss (%)", shown=factor)
    legend_above(ax)


def profile_figure(certificate: Certificate, freedom: int, logarithms: Collection[str]) -> Figure:
    """Return a panel for each profiled quantity; `freedom` is runs less parameters."""
    return Figure(
        "profiles",
        "Profile likelihoods: how much worse the runs fit with one quantity held at a value (N*: at the largest "
        "budget). Values under the dashed line are in the 95 % interval.",
        lambda axes: profiles(axes, certificate, freedom, logarithms),
        panels=[name.removeprefix("ln ").replace("*", "_best") for name in certificate.profiles],
    )


def profiles(axes: Sequence[Any], certificate: Certificate, freedom: int, logarithms: Collection[str]) -> None:
    """Deviance of every parameter and of N*, with the 95 % line."""
    wanted = student_95(max(1, freedom)) ** 2
    for ax, profile in zip(axes, certificate.profiles.values(), strict=True):
        _profile(ax, profile, wanted, logarithm=profile.name in logarithms or profile.name == "ln N*")


def _profile(ax: Any, profile: Profile, wanted: float, *, logarithm: bool) -> None:
    near = profile.deviance < 4 * wanted
    values = np.exp(profile.values[near]) if logarithm else profile.values[near]
    ax.plot(values, profile.deviance[near], "o-", ms=3.5, lw=1.3, color=BLUE)
    ax.axhline(wanted, color=RED, lw=1, ls="--")
    ax.set_ylim(0, 2.2 * wanted)
    name = profile.name.removeprefix("ln ") if logarithm else profile.name
    if name == "N*":
        log_x(ax, "N", "deviance")
    elif logarithm and values.max() > WIDE * values.min():
        log_x(ax, name, "deviance", shown=plain_number)
    else:
        ax.set_ylabel("deviance")
        ax.locator_params(axis="x", nbins=4)
        plain(ax)
    ax.set_xlabel(f"parameters {name}" if name == "N*" else name)

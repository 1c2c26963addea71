"""What came out of a sweep: the law and its report, whether layouts agree, and which cells ended badly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from launch.cluster.job import JobStatus
from launch.run.run_state import state_of
from launch.run.runs_root import runs_flag
from launch.scaling.compare.each import judge_each
from launch.scaling.compare.sides import Ledger
from launch.scaling.other.changes import changes_of, is_of_changes
from launch.scaling.report.changes import changes_report
from launch.scaling.table.counting import DEFAULT_N
from launch.scaling.table.load import from_ledger
from launch.scaling.table.reading import Row
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.act import recorded_cluster
from launch.sweep.execute.decide import Decision, Limits, Standing, Then, stand
from launch.sweep.execute.opened import Opened
from launch.sweep.ledger import ledger
from launch.sweep.ledger.collect import loss_curve
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_DONE, EXIT_FAILED
from trainer.contract.run_dir import RunDir, Status

if TYPE_CHECKING:
    from launch.scaling.report.write import ReportPaths


def report(opened: Opened, console: Console, n_convention: str = DEFAULT_N) -> ReportPaths | None:
    """Print the table and the law, and write the report, from the ledger alone. Return None where there is no law."""
    from launch.scaling.report.console import (  # late: a sweep that only starts jobs draws none
        changes_text,
        print_ladder,
    )
    from launch.scaling.report.write import render, write

    sweep, path = opened.sweep, opened.directory / "ledger.jsonl"
    ids = {one.id for one in opened.cells if one.cell.check_of is None}
    wanted = (sweep.fit.eval_set, ledger.NO_SET)
    rows = [r for r in ledger.read(path) if r["cell"] in ids and r["eval_set"] in wanted]
    points = {r["cell"] for r in rows if r.get("status", "done") == "done"}
    checks = check_layouts(opened.cells)
    for line in checks:
        console.print(line["text"], style="green" if line["agrees"] else "red", highlight=False)
    if len(points) < 3:
        console.print(f"{len(points)} points in the ledger: too few for a law")
        return None
    if is_of_changes(rows):
        changes = changes_of(rows)
        console.print(changes_text(changes))
        paths = render(changes_report(changes, sweep.name), opened.directory / "report")
        console.print(f"\nledger  {path}\nreport  {paths.html}", highlight=False, soft_wrap=True)
        return paths
    if len(sweep.changes) > 1 and {} in sweep.changes:
        return _report_changes(rows, path, opened, console)
    curves = next((line["curves"] for line in checks), None)
    try:
        table = from_ledger(rows, str(path), hashlib.sha256(path.read_bytes()).hexdigest(), n_convention)
        law = print_ladder(table, console)
        paths = write(table, opened.directory / "report", title=sweep.name, layout_check=curves)
    except UserError as error:  # the runs are trained and in the ledger: a sweep of seeds has no law, and is no failure
        console.print(
            f"no law from these {len(points)} points: {error}\nledger  {path}", highlight=False, soft_wrap=True
        )
        return None
    named = "" if law is None else f" --law {law}"
    named += "" if n_convention == DEFAULT_N else f" --n-convention {n_convention}"
    ends = f"\nledger  {path}\nreport  {paths.html}\nnext    escala fit {path}{named} --out fit.json"
    console.print(ends, highlight=False, soft_wrap=True)
    return paths


def _report_changes(rows: Sequence[Row], path: Path, opened: Opened, console: Console) -> ReportPaths | None:
    """Compare each change of a ladder with its base: one law through all of them would describe none."""
    from launch.scaling.report.comparison import changes_compared  # late, as above
    from launch.scaling.report.console import judged_changes_text
    from launch.scaling.report.write import render

    gate, eval_set = opened.sweep.gate, opened.sweep.fit.eval_set
    worth, asymptote = (1.0, None) if gate is None else (gate.worth, gate.asymptote)
    found = judge_each(Ledger(path, rows), eval_set=eval_set, worth=worth, asymptote=asymptote)
    console.print(judged_changes_text(found))
    paths = render(changes_compared(found, opened.sweep.name), opened.directory / "report")
    console.print(f"\nledger  {path}\nreport  {paths.html}", highlight=False, soft_wrap=True)
    return paths


def check_layouts(cells: Sequence[PlannedCell]) -> list[dict[str, Any]]:
    """Compare each layout check's curve with that of its cell, where both are done."""
    found = []
    by_id = {one.id: one for one in cells}
    for check in cells:
        if check.cell.check_of is None or check.run_dir.read_status() is not Status.DONE:
            continue
        other = by_id[check.cell.check_of]
        a, b = loss_curve(other.run_dir), loss_curve(check.run_dir)
        steps = sorted(a.keys() & b.keys())
        if not steps or check.cell.tolerance is None:
            continue
        difference = max(abs(a[step] - b[step]) for step in steps)
        agrees = difference <= check.cell.tolerance
        text = (
            f"layout check: {check.plan.layout} against {other.plan.layout}: largest difference of the training loss "
            f"over {len(steps)} recorded steps {difference:.2g} nats "
            f"({'within' if agrees else 'NOT within'} {check.cell.tolerance:g})"
        )
        curves = {one.plan.layout: (steps, [c[s] for s in steps]) for one, c in ((other, a), (check, b))}
        found.append({"text": text, "agrees": agrees, "difference": difference, "curves": curves})
    return found


def tell(decision: Decision, opened: Opened, console: Console) -> None:
    """Print how many cells stand how, and why those that ended badly did, whether they are started again or not."""
    stands = stand(decision.cells, Limits(queued=True))
    words = {"done": stands.done, "queued or running": stands.busy, "failed": stands.failed,
             "diverged": stands.diverged, "to do": stands.due}  # fmt: skip
    console.print(", ".join(f"{len(cells)} {word}" for word, cells in words.items() if cells), highlight=False)
    for word, reasons in _bad_ends(stands, decision, opened).items():
        for cell, reason in reasons.items():
            console.print(f"  {cell} {word}: {reason}", highlight=False, markup=False)


def ending(
    decision: Decision, limits: Limits, opened: Opened, config: Path, *, again: str | None = None
) -> tuple[str, int]:
    """Return which cells ended badly, why, and how to start them again, with the exit code; empty where none did.

    `again` is the command of `escala sweep` that does: by default `resume` where a cluster has the sweep, else `run`.
    """
    retried = limits if decision.then is Then.LEAVE else replace(limits, retry=False)  # else they would have been
    bad = _bad_ends(stand(decision.cells, retried), decision, opened)
    if not bad:
        return "", EXIT_DONE
    told = [
        f"{len(reasons)} of {len(opened.cells)} cells {word} "
        f"({'; '.join(f'{cell}: {reason}' for cell, reason in reasons.items())})"
        for word, reasons in bad.items()
    ]
    again = again or ("resume" if recorded_cluster(opened.directory) else "run")
    text = (
        f"{', '.join(told)}. Logs are under {opened.directory / 'cells'}; "
        f"'escala sweep {again} {config}{runs_flag(opened.directory.parent)} --failed' starts them again"
    )
    return text, EXIT_FAILED if "failed" in bad else EXIT_DIVERGED


def _bad_ends(stands: Standing, decision: Decision, opened: Opened) -> dict[str, dict[str, str]]:
    """Return word -> cell -> why it ended badly, by its own record, or by its backend where it left none."""
    jobs = {one.cell: one.job for one in decision.cells}
    run_dirs = {one.id: one.run_dir for one in opened.cells}
    words = {"failed": stands.failed, "diverged": stands.diverged}
    return {word: {c: _why(run_dirs[c], jobs[c]) for c in cells} for word, cells in words.items() if cells}


def _why(run_dir: RunDir, job: JobStatus | None) -> str:
    state = state_of(run_dir)
    if state.word in (Status.FAILED, Status.DIVERGED) or job is None:
        return state.reason
    return job.reason or state.reason or "it left no result"

"""Every row of a run has one number in W&B, whatever ended its senders and however often the run was restarted."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trainer.contract.run_dir import RunDir, append_json
from trainer.observe.record import Record
from trainer.observe.wandb_ledger import Ledger, Tail, key_of


def row(step: int, kind: str = "train") -> dict:
    return {"kind": kind, "step": step, "loss": 1.0, **({"eval_set": "validation"} if kind == "evaluation" else {})}


class Server:
    """Keeps rows whose numbers grow, as W&B does."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    @property
    def next_number(self) -> int:
        return self.rows[-1][0] + 1 if self.rows else 0

    def take(self, sent: list[tuple[int, dict]]) -> None:
        for number, value in sent:
            if number >= self.next_number:
                self.rows.append((number, value))


ATTEMPTS = st.lists(
    st.tuples(
        st.integers(1, 12),  # steps that the attempt trains
        st.integers(0, 12),  # steps that the next attempt takes back
        st.sampled_from((1, 2, 3)),  # it logs so often
        st.integers(0, 30),  # of the rows that its sender sent, so many arrive
        st.booleans(),  # the sender follows from the beginning, or comes after the end
    ),
    max_size=8,
)


@given(ATTEMPTS)
def test_each_row_arrives_once_over_restarts_kills_and_changes_of_the_interval(attempts: list) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_dir, server, step = RunDir(Path(place)), Server(), 0
        for steps, back, every, arrive, early in attempts:
            Record(run_dir).rewind(step)
            ledger, tail = Ledger(run_dir), Tail(run_dir.metrics)
            sent = ledger.resume(server.next_number, tail.rows()) if early else []
            for now in range(step + 1, step + steps + 1):
                if now % every == 0:
                    append_json(run_dir.metrics, row(now), *([row(now, "evaluation")] if now % 4 == 0 else []))
                if early:
                    sent += ledger.add(tail.rows())
            if not early:
                sent = ledger.resume(server.next_number, tail.rows())
            server.take(sent[:arrive])
            step = max(0, step + steps - back)
        Record(run_dir).rewind(step)
        server.take(Ledger(run_dir).resume(server.next_number, Tail(run_dir.metrics).rows()))
        there = [key_of(value) for _, value in server.rows]
        assert len(there) == len(set(there)), "no row twice"
        assert {key_of(value) for value in Tail(run_dir.metrics).rows()} <= set(there), "none is missing"
        assert Ledger(run_dir).resume(server.next_number, Tail(run_dir.metrics).rows()) == [], "nothing to do again"


def test_a_lost_ledger_takes_the_rows_in_their_order(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    append_json(run_dir.metrics, *(row(step) for step in range(1, 6)))
    assert [n for n, _ in Ledger(run_dir).resume(3, Tail(run_dir.metrics).rows())] == [3, 4]


def test_a_run_that_was_deleted_from_the_server_is_sent_again(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    append_json(run_dir.metrics, *(row(step) for step in range(1, 4)))
    rows = Tail(run_dir.metrics).rows()
    Ledger(run_dir).resume(0, rows)
    assert len(Ledger(run_dir).resume(0, rows)) == 3


def test_one_process_at_a_time_sends(tmp_path: Path) -> None:
    with Ledger(RunDir(tmp_path)).locked() as first, Ledger(RunDir(tmp_path)).locked() as second:
        assert first and not second


def test_the_tail_of_a_file_that_is_replaced_begins_again(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    tail = Tail(run_dir.metrics)
    assert tail.rows() == []
    append_json(run_dir.metrics, row(1), row(2))
    with run_dir.metrics.open("a") as out:
        out.write('{"torn": ')
    assert [r["step"] for r in tail.rows()] == [1, 2]
    assert tail.rows() == []
    Record(run_dir).rewind(1)
    assert [r["step"] for r in tail.rows()] == [1]


def test_rows_after_a_rollback_are_rows_of_their_own(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    append_json(run_dir.metrics, *(row(step) for step in range(1, 5)))
    ledger, tail = Ledger(run_dir), Tail(run_dir.metrics)
    ledger.resume(0, tail.rows())
    Record(run_dir).rewind(2)
    append_json(run_dir.metrics, *({**row(step), "rollbacks": 1} for step in range(3, 6)))
    assert [(number, new["step"]) for number, new in ledger.add(tail.rows())] == [(4, 3), (5, 4), (6, 5)]
    assert Ledger(run_dir).resume(7, Tail(run_dir.metrics).rows()) == [], "a restarted sender knows them"


def test_each_event_is_told_once_by_whoever_sends(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    events = [{"event": str(number)} for number in range(5)]
    first = Ledger(run_dir)
    assert first.new_events(events[:2]) == events[:2] and first.new_events(events[2:3]) == events[2:3]
    second = Ledger(run_dir)
    second.resume(0, [])
    assert second.new_events(events[:4]) == events[3:4] and second.new_events(events[4:]) == events[4:]

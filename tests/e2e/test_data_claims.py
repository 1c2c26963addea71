"""A directory belongs to one configuration, even of two that start together, and is given back where nothing came."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.test_data_prepare import config, run_prepare, texts, write_files
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare import claim
from trainer.data.prepare.prepare import prepare
from trainer.data.store.manifest import Manifest
from trainer.data.store.verify import verify

BYTES = {"tokenizer": {"kind": "bytes"}}


def two_at_once(tmp_path: Path, round_: int) -> list[tuple[int, str, DataConfig]]:
    """Start two configurations of one name together; return the exit code and the errors of each."""
    found = []
    for fraction in (0.3, 0.4):
        path = write_files(tmp_path / f"in{fraction}", texts(int(10 * fraction), 40), 2)
        found.append(config(tmp_path / str(round_), path, held_out_fraction=fraction, **BYTES))
    processes = [run_prepare(section, "--workers", "1") for section in found]
    codes = [process.wait(timeout=120) for process in processes]
    said = [process.stderr.read().decode() for process in processes if process.stderr]
    return list(zip(codes, said, found, strict=True))


@pytest.mark.e2e
@pytest.mark.parametrize("round_", range(3))
def test_of_two_configurations_that_start_together_one_has_the_directory(tmp_path: Path, round_: int) -> None:
    ends = two_at_once(tmp_path, round_)
    assert sorted(code for code, _, _ in ends) == [0, 2], [said for _, said, _ in ends]
    for code, said, section in ends:
        if code == 2:
            assert "holds data of another configuration (data.held_out_fraction: 0." in said and "Traceback" not in said
        else:
            assert Manifest.open(tmp_path / str(round_) / "made").config_hash == section.content_hash()
    assert verify(tmp_path / str(round_) / "made") == []


def test_the_check_and_the_claim_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two waits behind its check until the other has checked too, which only a check without a lock allows."""
    path = write_files(tmp_path / "in", texts(1, 40), 2)
    barrier = threading.Barrier(2)
    real, ends = claim.refuse_other_set, []

    def check(root: Path, section: DataConfig) -> None:
        real(root, section)
        try:
            barrier.wait(2)
        except threading.BrokenBarrierError:
            barrier.reset()

    def run(fraction: float) -> None:
        try:
            prepare(config(tmp_path, path, held_out_fraction=fraction, **BYTES), workers=1)
            ends.append((fraction, ""))
        except UserError as error:
            ends.append((fraction, str(error)))

    monkeypatch.setattr(claim, "refuse_other_set", check)
    monkeypatch.setattr("trainer.data.prepare.prepare.refuse_other_set", check)
    threads = [threading.Thread(target=run, args=(fraction,)) for fraction in (0.3, 0.4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [fraction for fraction, error in ends if not error]
    (refused,) = [error for _, error in ends if error]
    assert "another configuration (data.held_out_fraction: 0." in refused
    assert Manifest.open(tmp_path / "made").config["held_out_fraction"] == winner


def test_a_fraction_that_held_nothing_out_can_be_raised(tmp_path: Path) -> None:
    """As the message says: with one file nothing was published, and with several another name is needed."""
    for files, published in ((1, False), (2, True)):
        path = write_files(tmp_path / f"in{files}", texts(7, 6), files)
        section = config(tmp_path / str(files), path, held_out_fraction=1e-9, **BYTES)
        with pytest.raises(UserError, match=r"none of 6 documents .* raise data.held_out_fraction") as refused:
            prepare(section, workers=1)
        assert ("and data.name" in str(refused.value)) == published
        values = section.model_dump(mode="json") | {"held_out_fraction": 0.5, "name": "other" if published else "made"}
        again = parse_section(DataConfig, values, "test")
        assert Manifest.open(prepare(again, workers=1)).complete

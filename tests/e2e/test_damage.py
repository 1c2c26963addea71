"""Damage every small file of a run and of a checkpoint, start the run again, and see that nothing goes unsaid.

After any flipped bit, truncation or deletion a run goes on from a sound checkpoint to the losses of an undisturbed run,
or begins anew aloud to the same losses, or ends with one sentence. As tests: a fixed sample. The full harness flips
every bit of the manifest and of the other small files as their readers see them, and starts a run after a sample:

    python -m tests.e2e.test_damage --full --starts 400
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration, make_pool
from trainer.checkpoint.search import newest_sound, sizes_problem
from trainer.config.load import load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.data.read.opening import open_manifest
from trainer.data.store.pinned import pinned

STEPS, NEWEST, OLDER = 12, 10, 5
CHECKPOINT = f"checkpoints/step_{NEWEST:09d}"
MANIFEST = f"{CHECKPOINT}/manifest.json"
OUTCOMES = {"one sentence", f"resumed at step {NEWEST}", f"resumed at step {OLDER}", "began_anew at step 0"}
SMALL_FILES = ("config.yaml", "data.json", "plan.json", "run.json", "status", "latest")


@dataclass(frozen=True)
class Damage:
    """One way to damage one file: a flipped bit, a cut at a length, or (both None) its deletion."""

    file: str
    bit: int | None = None
    length: int | None = None

    def applied(self, content: bytes) -> bytes | None:
        """Return what is left of a content; None for a file that is gone."""
        if self.bit is not None:
            changed = bytearray(content)
            changed[self.bit // 8] ^= 1 << self.bit % 8
            return bytes(changed)
        return None if self.length is None else content[: self.length]

    def apply(self, root: Path) -> None:
        path = root / self.file
        left = self.applied(path.read_bytes())
        if left is None:
            path.unlink()
        else:
            path.write_bytes(left)


def all_damages(file: str, size: int) -> Iterator[Damage]:
    """Yield every single-bit flip of a file, every truncation and its deletion."""
    yield Damage(file)
    yield from (Damage(file, length=length) for length in range(size))
    yield from (Damage(file, bit=bit) for bit in range(8 * size))


def sample(file: str, size: int, count: int, chance: random.Random) -> list[Damage]:
    """Return the deletion of a file and some of the other damages, half of them flips."""
    cuts = [Damage(file, length=chance.randrange(size)) for _ in range(count // 2)]
    flips = [Damage(file, bit=chance.randrange(8 * size)) for _ in range(count - count // 2)]
    return [Damage(file), *cuts, *flips]


@dataclass
class Interrupted:
    """A run that was interrupted after its checkpoint at NEWEST, and what it comes to undisturbed."""

    pool: RankPool
    config: RunConfig
    root: Path
    expected: list[tuple[str, int, float]]

    def start_after(self, damage: Damage, directory: Path) -> str:
        """Damage a copy of the run and start it again; return what happened. AssertionError for what must not."""
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.root, directory)
        damage.apply(directory)
        ranks = Ranks(self.pool, self.config, directory, 1)
        ranks.attempt = 1
        ranks.start(write_config=False)
        ranks.end(time.monotonic() + PATIENCE)
        (code,) = ranks.codes.values()
        log = ranks.log()
        if code == EXIT_USER_ERROR:
            errors = [line for line in log.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and "Traceback" not in log, f"{damage}: {log}"
            return "one sentence"
        assert code == 0, f"{damage}: exit code {code}: {log}"
        rows = [(row["kind"], row["step"], row["loss"]) for row in rows_of(ranks.run_dir.metrics)]
        assert rows == self.expected, f"{damage}: other losses"
        (said,) = [e for e in rows_of(ranks.run_dir.events) if e["event"] in ("resumed", "began_anew")]
        if said["step"] < NEWEST:
            assert said["lost_steps"] == NEWEST - said["step"] and said["passed_over"], f"{damage}: {said}"
            assert "trained again" in log, f"{damage}: not said: {log}"
        return f"{said['event']} at step {said['step']}"


def interrupt(pool: RankPool, data: Path, root: Path) -> Interrupted:
    """Train a run of one rank to its end, and put its directory back to what it was after step NEWEST."""
    config, _ = resolve(configuration(data, STEPS, checkpoint={"keep_last": 3}))
    ranks = Ranks(pool, config, root / "undisturbed", 1)
    expected = ranks.finish()
    run_dir = RunDir(root / "interrupted")
    shutil.copytree(ranks.run_dir.root, run_dir.root)
    shutil.rmtree(run_dir.checkpoints / f"step_{STEPS:09d}")
    run_dir.result.unlink()
    run_dir.events.unlink()
    write_atomically(run_dir.latest, f"step_{NEWEST:09d}\n")
    run_dir.write_status(Status.RUNNING)
    rows = [row for row in rows_of(run_dir.metrics) if row["step"] <= NEWEST]
    write_atomically(run_dir.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in sorted(run_dir.checkpoints.iterdir())] == [f"step_{n:09d}" for n in (OLDER, NEWEST)]
    return Interrupted(pool, config, run_dir.root, expected)


def read_all(file: str, root: Path) -> Callable[[], object]:
    """Return what reads a file and gives what a run takes from it: the same value, or a UserError."""
    run_dir = RunDir(root)
    if file == MANIFEST:
        return lambda: newest_sound(run_dir.checkpoints, sizes_problem).checkpoint
    if file == "config.yaml":
        return lambda: load_written(run_dir.config)
    config = load_written(run_dir.config)
    manifest = open_manifest(config.data)
    return lambda: pinned(run_dir.data, manifest)


def survey(interrupted: Interrupted, file: str, damages: Iterator[Damage], directory: Path) -> Counter[str]:
    """Damage a file in every way and read it each time; return how often it was what. AssertionError otherwise."""
    shutil.copytree(interrupted.root, directory)
    path, found = directory / file, Counter[str]()
    whole = path.read_bytes()
    reader = read_all(file, directory)
    undamaged = reader()
    older = directory / "checkpoints" / f"step_{OLDER:09d}"
    for damage in damages:
        left = damage.applied(whole)
        path.unlink(missing_ok=True)
        if left is not None:
            path.write_bytes(left)
        try:
            value = reader()
        except UserError:
            found["one sentence"] += 1
            continue
        expected = older if file == MANIFEST else undamaged
        assert value == expected, f"{damage}: read as {value}"
        found["the older checkpoint" if file == MANIFEST else "as undamaged"] += 1
    shutil.rmtree(directory)
    return found


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, rank_pool: RankPool, prepared: Path) -> Interrupted:
    return interrupt(rank_pool, prepared, tmp_path_factory.mktemp("damage"))


@pytest.mark.e2e
@pytest.mark.parametrize("file", [MANIFEST, "config.yaml", "data.json"])
def test_what_is_read_is_what_was_written(tmp_path: Path, interrupted: Interrupted, file: str) -> None:
    damages = sample(file, (interrupted.root / file).stat().st_size, 400, random.Random(1))
    found = survey(interrupted, file, iter(damages), tmp_path / "run")
    assert sum(found.values()) == len(damages)
    assert found["one sentence" if file != MANIFEST else "the older checkpoint"] > 100


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("file", [MANIFEST, f"{CHECKPOINT}/rank_00000.safetensors", *SMALL_FILES])
def test_a_run_that_was_damaged_goes_on_or_says_why(tmp_path: Path, interrupted: Interrupted, file: str) -> None:
    for damage in sample(file, (interrupted.root / file).stat().st_size, 2, random.Random(file)):
        assert interrupted.start_after(damage, tmp_path / "run") in OUTCOMES


def main() -> None:
    """Entry point of the full harness."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="every damage of the files that decide what is trained")
    parser.add_argument("--starts", type=int, default=100, help="runs that are started, each after one damage")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    began, chance = time.monotonic(), random.Random(a.seed)
    with tempfile.TemporaryDirectory(prefix="escala-damage-") as directory:
        root = Path(directory)
        pool = make_pool(root)
        try:
            run = interrupt(pool, root, root)
            sizes = {file: (run.root / file).stat().st_size for file in (MANIFEST, *SMALL_FILES)}
            for file in (MANIFEST, "config.yaml", "data.json") if a.full else ():
                found = survey(run, file, all_damages(file, sizes[file]), root / "survey")
                print(json.dumps({"file": file, "bytes": sizes[file], **found}), flush=True)
            outcomes: dict[str, Counter[str]] = {file: Counter() for file in sizes}
            for number in range(a.starts):
                file = list(sizes)[number % len(sizes)]
                (damage,) = chance.sample(sample(file, sizes[file], 2, chance), 1)
                outcomes[file][run.start_after(damage, root / "started")] += 1
            print(json.dumps({**outcomes, "starts": a.starts, "seconds": round(time.monotonic() - began)}))
        finally:
            pool.close()


if __name__ == "__main__":
    main()

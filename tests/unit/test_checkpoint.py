"""Manifests: what is written is read, nothing that was changed since is; which settings may change; what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import small_manifest, write
from trainer.checkpoint.contents import contents_problem
from trainer.checkpoint.manifest import FormatError, Manifest, Share, checkpoint_name, read_manifest, seal
from trainer.checkpoint.retention import list_set_aside, misplaced_among, set_aside
from trainer.checkpoint.search import newest_sound, problem_with
from trainer.checkpoint.settings import changed_settings, refuse_other_order
from trainer.contract.errors import UserError


def test_what_is_written_is_read() -> None:
    manifest = small_manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert contents_problem(manifest) is None


def test_no_flipped_bit_and_no_truncation_goes_unseen() -> None:
    text = small_manifest().to_json().encode()
    for at in range(8 * len(text)):
        changed = bytearray(text)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError):
            Manifest.from_json(bytes(changed).decode())
    for length in range(len(text)):
        with pytest.raises(ValueError):
            Manifest.from_json(text[:length].decode())


@given(st.binary(max_size=200))
def test_garbage_is_damaged_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(garbage.decode("latin-1"))


VALUES = [None, True, -1, 0, 1, 1.5, 10**30, float("nan"), "", "w", [], [[]], [1], [[0, 2]], {}, {"w": 1}, {"w": {}}]


@settings(max_examples=200)
@given(st.data())
def test_any_value_in_any_place_is_refused_or_read_as_what_it_says(data: st.DataObject) -> None:
    """The hash is made anew each time: what is left is the schema, which is all that protects format 1."""
    values = json.loads(small_manifest().to_json())
    del values["sha256"]
    place, key = values, data.draw(st.sampled_from(sorted(values)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
    if data.draw(st.booleans()):
        place[key] = data.draw(st.sampled_from(VALUES))
    else:
        del place[key]
    try:
        manifest = Manifest.from_json(seal(json.dumps(values, indent=1).encode() + b"\n").decode())
    except (ValueError, FormatError):
        return
    assert manifest.step >= 0 and contents_problem(manifest) is None


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (Share(1, ((0, 2), (4, 6)), (0, 11)), "do not make up the whole"),
        (Share(1, ((0, 2), (4, 5)), (0, 9)), "do not make up dimension 1"),
        (Share(0, ((0, 3),), (0, 24)), "along several dimensions"),
    ],
)
def test_values_without_a_home_are_damage(share: Share, expected: str) -> None:
    manifest = small_manifest()
    file = manifest.files["rank_00000.safetensors"]
    files = {**manifest.files, "rank_00000.safetensors": replace(file, shares={**file.shares, "w": share})}
    with pytest.raises(ValueError, match=expected):
        Manifest.from_json(replace(manifest, files=files).to_json())


def test_a_file_lies_beside_its_manifest() -> None:
    with pytest.raises(ValueError):
        files = {"../step_000000001/rank_00000.safetensors": small_manifest().files["rank_00000.safetensors"]}
        Manifest.from_json(replace(small_manifest(), files=files).to_json())


def test_without_files_a_checkpoint_is_damaged_and_the_older_one_is_taken(tmp_path: Path) -> None:
    older = write(tmp_path, small_manifest(3))
    newest = write(tmp_path, small_manifest(7, files={}))
    assert problem_with(newest) is not None and "no file holds it" in str(problem_with(newest))
    found = newest_sound(tmp_path)
    assert found.checkpoint == older and [row.checkpoint for row in found.passed] == [newest.name]
    assert problem_with(older) is None


def test_another_format_is_refused_where_it_is_sound_and_passed_over_where_it_is_not(tmp_path: Path) -> None:
    write(tmp_path, small_manifest(3))
    text = small_manifest(7, format=3).to_json()
    newest = tmp_path / checkpoint_name(7)
    newest.mkdir()
    (newest / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match="has format 3"):
        newest_sound(tmp_path)
    (newest / "manifest.json").write_text(text.replace('"format": 3', '"format": 4'))
    found = newest_sound(tmp_path)
    assert found.manifest is not None and found.manifest.step == 3


def test_only_what_counts_is_counted(tmp_path: Path) -> None:
    for step, changes in {10: {}, 20: {}, 30: {"trajectory": "fe"}, 40: {}, 50: {}}.items():
        write(tmp_path, small_manifest(step, **changes))
    (tmp_path / checkpoint_name(20) / "rank_00001.safetensors").write_bytes(b"")
    found = list(misplaced_among(tmp_path, 2, trajectory="0123456789abcdef", newest=40))
    reasons = {row.checkpoint.name: row.reason for row in found}
    assert reasons == {
        checkpoint_name(50): "abandoned", checkpoint_name(30): "abandoned", checkpoint_name(20): "damaged",
    }  # fmt: skip
    (first,) = misplaced_among(tmp_path, 1, trajectory="0123456789abcdef", newest=40)
    assert first.checkpoint.name == checkpoint_name(50), "those below the newest that counts are not looked at"


def test_what_is_set_aside_does_not_pile_up(tmp_path: Path) -> None:
    for _ in range(3):
        set_aside(write(tmp_path, small_manifest()), "abandoned")
    (left,) = list_set_aside(tmp_path)
    assert left.name == f"{checkpoint_name(7)}-abandoned" and read_manifest(left).step == 7
    assert newest_sound(tmp_path).checkpoint is None


WSD = {"kind": "wsd", "warmup": "2 steps", "decay": "20%", "final_ratio": 0.0}
SETTINGS = {"optim.lr": 1e-3, "schedule": WSD, "steps": 100, "batch.tokens_per_step": 512, "seed": 0}


def test_a_longer_run_is_the_same_run_until_its_cooldown() -> None:
    longer = {**SETTINGS, "steps": 200}
    assert changed_settings(SETTINGS, longer, 80) == {}
    assert list(changed_settings(SETTINGS, longer, 90)) == ["steps"]
    cosine = {**SETTINGS, "schedule": {**WSD, "kind": "cosine"}}
    assert list(changed_settings(SETTINGS, cosine, 2)) == []  # still in the warm-up
    assert list(changed_settings(SETTINGS, cosine, 50)) == ["schedule"]


def test_what_decides_the_order_of_data_is_refused() -> None:
    changed = changed_settings(SETTINGS, {**SETTINGS, "batch.tokens_per_step": 1024, "optim.lr": 2e-3}, 5)
    assert set(changed) == {"batch.tokens_per_step", "optim.lr"}
    with pytest.raises(UserError, match=r"batch\.tokens_per_step 512 there and 1024 here: the order of data"):
        refuse_other_order(changed, Path("step_000000005"))
    refuse_other_order(changed_settings(SETTINGS, {**SETTINGS, "optim.lr": 2e-3}, 5), Path("step_000000005"))

"""Time limits: what users of Slurm write means what Slurm makes of it, and YAML makes no number of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.config import load_cluster
from launch.cluster.time_limit import parse_minutes
from trainer.config.load import set_values
from trainer.config.yaml_text import parse_yaml
from trainer.contract.errors import UserError

MEANT = {
    "720": 720,
    "12:00:00": 720,
    "0:30:00": 30,
    "00:00:30": 1,
    "1-0": 1440,
    "1-12": 2160,
    "2-01:30": 2970,
    "1-12:00:01": 2161,
    "12h": 720,
    "90m": 90,
    "90 min": 90,
    "1d12h": 2160,
    "1 day 2 hours": 1560,
    "45s": 1,
}


@pytest.mark.parametrize(("text", "minutes"), MEANT.items())
def test_a_cluster_file_says_a_limit_in_any_notation(tmp_path: Path, text: str, minutes: int) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"backend: slurm\ntime_limit: {text}\n")
    assert load_cluster(str(file)).time_limit == minutes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:30", "1 minutes and 30 seconds to Slurm: write 1h30m or 00:1:30"),
        ("0", "leave it out"),
        ("00:00:00", "leave it out"),
        ("1.5", "expected minutes, or a time such as 90m"),
        ("-5", "expected minutes"),
        ("true", "expected minutes"),
        ("soon", "expected minutes"),
        ("''", "expected minutes"),
        ("1-", "expected minutes"),
        ("1h 2d", "expected minutes"),
        ("infinite", "expected minutes"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"backend: slurm\ntime_limit: {text}\n")
    with pytest.raises(UserError, match=message):
        load_cluster(str(file))


@given(st.integers(0, 40), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_clock_is_its_minutes_rounded_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    if days + hours + minutes + seconds == 0:
        return
    whole = ((days * 24 + hours) * 60 + minutes) + (seconds > 0)
    assert parse_minutes(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == whole
    assert parse_minutes(f"{days}d{hours}h{minutes}m{seconds}s") == whole
    if days == 0:
        assert parse_minutes(f"{hours}:{minutes:02}:{seconds:02}") == whole


@pytest.mark.parametrize("text", ["12:00:00", "1:30", "10:22", "-1:30", "190:20:30.15"])
def test_no_number_is_read_to_base_60(text: str) -> None:
    assert yaml.safe_load(text) != text, "YAML 1.1 does"
    assert parse_yaml(text) == text
    assert parse_yaml(yaml.safe_dump(text)) == text
    assert set_values({}, [f"a={text}"]) == {"a": text}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
def test_everything_else_is_read_as_before(value: object) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text) == value


@pytest.mark.parametrize(
    "text", ["1", "-7", "0x1f", "017", "0b11", "1_000", "1.5", "1e3", "1.0e+3", ".5", ".inf", "-.inf"]
)
def test_plain_numbers_are_read_as_before(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)

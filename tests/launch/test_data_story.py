"""What `escala data` says about a set."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.run.data_story import print_mixture
from tests.unit.data.builders import random_docs, write_set
from trainer.config.data import DataConfig, SourceConfig
from trainer.data.store.inspect import summary


def test_the_mixture_is_shown_or_said_to_be_in_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = summary(write_set(tmp_path / "two", {"a": random_docs(0, 30), "b": random_docs(1, 30)}))
    sources = (SourceConfig(name="a", weight=0.75), SourceConfig(name="b", weight=0.25))
    print_mixture(DataConfig(sources=sources), values)
    shown = capsys.readouterr().out
    assert "a  75.0%" in shown and "b  25.0%" in shown
    print_mixture(None, values)
    assert capsys.readouterr().out == (
        "the weights of the mixture are in the configuration: escala data inspect CONFIG shows them\n"
    )
    print_mixture(None, summary(write_set(tmp_path / "one", {"a": random_docs(0, 30)})))
    assert capsys.readouterr().out == "", "one source is no mixture"

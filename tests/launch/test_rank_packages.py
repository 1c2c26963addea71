"""What a machine must have is asked for where it is used: DeepSpeed by its engine, `datasets` by a hub source."""

from __future__ import annotations

import sys

import pytest

from launch.run import rank_packages
from launch.run.rank_packages import need_rank_packages
from trainer.config.data import SourceConfig
from trainer.contract.errors import UserError
from trainer.data.source.hub import find_dataset
from trainer.engine import build


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(rank_packages, "_is_there", lambda name: name not in names)
    monkeypatch.setattr(build, "find_spec", lambda name: None if name in names else object())
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails


def test_a_machine_without_deepspeed_trains_with_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "deepspeed", "datasets", "wandb")
    need_rank_packages(["fsdp"])
    build.library_of("fsdp")
    for refused in (lambda: need_rank_packages(["fsdp", "deepspeed"]), lambda: build.library_of("deepspeed")):
        with pytest.raises(UserError, match=r"DeepSpeed is not installed here: install it, or set parallel.engine"):
            refused()


def test_a_login_node_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "deepspeed")
    with pytest.raises(UserError, match=r'this needs torch, which a login node does without: pip install "escala'):
        need_rank_packages(["deepspeed"])


def test_only_a_source_on_the_hub_needs_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "datasets")
    with pytest.raises(UserError, match=r"source 'web' is a dataset of the hub, .* name files"):
        find_dataset(SourceConfig(name="web", path="somebody/web"))

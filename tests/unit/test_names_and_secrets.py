"""A name never leaves its directory, and a secret never enters a configuration."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.local.cold import ProcessPool
from launch.cluster.local.warm import RankPool
from trainer.config.base import parse_section
from trainer.config.data import SourceConfig
from trainer.config.load import dump, run_from_values
from trainer.config.names import check_name
from trainer.config.run import RunConfig
from trainer.config.secrets import from_environment
from trainer.contract.errors import UserError
from trainer.contract.hiding import looks_secret, redact, without_secrets

RUN = {"model": {"size": "12k", "vocab_size": 64}, "data": {}, "batch": {"tokens_per_step": 2048}, "steps": 3}


@given(st.text(max_size=300))
def test_an_accepted_name_is_one_directory_below_its_parent(name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        assert str(error).startswith("a name ")
        return
    below = (Path("/runs") / name).resolve()
    assert below.parent == Path("/runs") and below.name == name
    assert name.isprintable() and name[0] not in ".-" and len(name.encode()) <= 150


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "/x", "a/b", "a\\b", "-x", ".x", "x" * 151, "a\nb", "\0"])
def test_names_that_escape_or_confuse_are_refused_with_the_key(name: str) -> None:
    with pytest.raises(UserError, match="'name': a name"):
        parse_section(RunConfig, {**RUN, "name": name}, "run")


@pytest.mark.parametrize(
    ("storage", "key"),
    [
        ({"secret": "hunter2"}, "secret"),
        ({"key": "hunter2"}, "key"),
        ({"client_kwargs": {"aws_secret_access_key": "hunter2"}}, "client_kwargs.aws_secret_access_key"),
        ({"accountKey": "hunter2"}, "accountKey"),
        ({"password": 7312}, "password"),
        ({"sas_token": "hunter2"}, "sas_token"),
    ],
)
def test_a_secret_in_a_file_is_refused_by_its_option_alone(storage: dict, key: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_section(RunConfig, {**RUN, "data": {"sources": [{"path": "s3://b/x", "storage": storage}]}}, "run")
    text = str(refused.value)
    assert f"'{key}' looks like a secret" in text and f": ${key.split('.')[-1].upper()}" in text
    assert "hunter2" not in text and "7312" not in text


def test_a_variable_stands_for_a_secret_everywhere_but_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = {"secret": "$MINIO_SECRET", "token": "anon", "client_kwargs": {"password": "${PASS}", "region": "eu"}}
    values = {**RUN, "data": {"sources": [{"path": "s3://b/x", "storage": storage}]}}
    monkeypatch.setenv("MINIO_SECRET", "hunter2")
    monkeypatch.setenv("PASS", "hunter3")
    run = run_from_values(values, "run")
    assert "hunter" not in dump(run) and "hunter" not in repr(run)
    used = run.data.sources[0].storage_options
    assert used == {"secret": "hunter2", "token": "anon", "client_kwargs": {"password": "hunter3", "region": "eu"}}
    monkeypatch.delenv("PASS")
    with pytest.raises(UserError, match=r"'password' is taken from \$PASS, which is not set"):
        _ = run.data.sources[0].storage_options


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError) as refused:
        parse_section(SourceConfig, {"path": "https://me:hunter2@example.org/x.jsonl"}, "run")
    assert "holds a password" in str(refused.value) and "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/x.jsonl?token=hunter2",
        "s3://bucket/x?X-Amz-Signature=hunter2&X-Amz-Date=1",
        "abfs://c@account/x.parquet?sv=1&sig=hunter2",
        "https://hunter2@example.org/x.jsonl",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match=r"the address holds a (secret|password)") as refused:
        parse_section(RunConfig, {**RUN, "data": {"sources": [{"path": address}]}}, "run")
    assert "hunter2" not in str(refused.value) and "at least 1 item" not in str(refused.value)


@pytest.mark.parametrize("address", ["https://h/x?page=2&format=json", "abfs://c@account/x", "hf://datasets/o/r@rev/f"])
def test_an_address_without_a_secret_is_taken(address: str) -> None:
    assert parse_section(SourceConfig, {"path": address}, "run").path == address


def test_a_secret_that_a_library_repeats_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", "hunter/2 hunter")
    monkeypatch.setenv("MINE", "pw")
    for name in ("SSH_AUTH_SOCK", "PWD", "OLDPWD"):
        monkeypatch.setenv(name, "/tmp/agent.1")
    from_environment({"key": "$MINE"})
    said = without_secrets("403 for https://h/x?a=pw&b=hunter/2+hunter, c=hunter%2F2%20hunter: hunter/2 hunter")
    assert "hunter" not in said and "pw" not in said and said.startswith("403 for https://h/x?a=***")
    assert without_secrets("/tmp/agent.1") == "/tmp/agent.1"


def test_errors_and_tracebacks_of_entry_points_hold_no_secret() -> None:
    program = (
        "from trainer.contract.errors import UserError\n"
        "from trainer.data.prepare import prepare as module\n"
        "def fail(*args, **kwargs): raise KIND('no such user: hunter2-hunter2')\n"
        "module.prepare = fail\nmodule.read_config = lambda path: None\nmodule.main()"
    )
    for kind in ("UserError", "RuntimeError"):
        ended = subprocess.run(
            [sys.executable, "-c", program.replace("KIND", kind), "--config", "x"],
            capture_output=True, text=True, env={**os.environ, "S3_SECRET": "hunter2-hunter2"},
        )  # fmt: skip
        assert ended.returncode and "no such user: ***" in ended.stderr and "hunter2" not in ended.stderr


def test_values_beside_the_name_of_a_secret_are_not_shown() -> None:
    assert redact("[{'path': 'x', 'secret': 'hunter 2', 'size': 3}]") == "[{'path': 'x', 'secret': ***, 'size': 3}]"
    assert redact("s3://me:hunter2@host/x token=hunter2") == "s3://***@host/x token=***"
    with pytest.raises(UserError) as refused:
        parse_section(RunConfig, {**RUN, "data": [{"secret": "hunter2"}]}, "run")
    assert "hunter2" not in str(refused.value)
    assert all(
        looks_secret(name) for name in ("SLURM_JWT", "DB_PASSPHRASE", "HF_TOKEN1", "PRIVATEKEY", "OPENAI_API_KEY")
    )
    assert not any(looks_secret(name) for name in ("PWD", "OLDPWD", "HF_TOKEN_PATH"))
    assert not [
        name for name in ("tokens", "keyboard", "tokenizer", "monkey", "keep_at", "key_filename") if looks_secret(name)
    ]


SAYS = (
    "import logging, os, sys\nsecret = os.environ['SERVICE_TOKEN']\n"
    "print('a', secret, [secret]); print(secret, file=sys.stderr); sys.stdout.writelines([secret])\n"
    "logging.warning('sent to https://h/x?t=%s', secret)\n"
    "raise RuntimeError(f'403 for {secret}')\n"
)


def start_rank(start: str, program: Path, log: Path, environment: dict[str, str]) -> int:
    if start == "below torchrun":
        command = [sys.executable, "-m", "trainer.node.rank", str(program)]
        return subprocess.run(command, cwd=log.parent, env=environment, check=False).returncode
    warm = RankPool(environment, log.with_name("server.log"), preload=())
    with contextlib.closing(ProcessPool(sys.executable) if start == "alone" else warm) as pool:
        pool.fork("a", [str(program)], environment, log.parent, log)
        while not (ended := [row["code"] for row in pool.events(60) if row.get("exited") == "a"]):
            pass
    return int(ended[0])


@pytest.mark.parametrize("start", ["alone", "below torchrun", "forked"])
def test_no_log_of_a_rank_holds_a_secret(tmp_path: Path, start: str) -> None:
    program, log = tmp_path / "program.py", tmp_path / "rank_0.log"
    program.write_text(SAYS)
    environment = {**os.environ, "SERVICE_TOKEN": "hunter2/hunter2", "RANK": "0", "ESCALA_LOGS": str(tmp_path)}
    assert start_rank(start, program, log, environment) == 1
    said = log.read_text()
    assert "hunter2" not in said and "a *** ['***']" in said and "x?t=***" in said
    assert "\nRuntimeError: 403 for ***\n" in said

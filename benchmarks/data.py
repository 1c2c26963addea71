"""The data pipeline against its peers, on the same tokens, in one run: `python -m benchmarks.data [SECTION ...]`.

Sections: read (with peers), resume, order, write, tokenize, memory. Each prints JSON lines; all of them end up in
--out. Peers live in an environment of their own (--peers DIR, made there when it is missing), because their
requirements exclude each other's and ours. Rounds of all readers take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from trainer.config.base import parse_section
from trainer.config.data import DataConfig, TokenizerConfig
from trainer.data.order.order import rank_indices, shuffled
from trainer.data.prepare.encode import Encoders, SplitRule, usable_cores
from trainer.data.prepare.part_writer import chunks
from trainer.data.read.batches import Batches
from trainer.data.store.manifest import Manifest
from trainer.data.store.shard_writer import Encoded, ShardWriter
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.tokenizer import load_tokenizer, save_tokenizer
from trainer.data.tokenize.tokenizer_training import train_sentencepiece

HERE = Path(__file__).resolve().parent
LENGTH, BATCH = 512, 512
PEERS = ("nanogpt", "datatrove", "litdata", "mosaicml", "grain", "megatron")
# Without their own requirements, which exclude each other's; then what their readers import.
PEER_PACKAGES = ("datatrove", "litdata", "mosaicml-streaming", "grain", "megatron-core")
# fmt: off
PEER_NEEDS = [
    "torch==2.13.0", "numpy", "absl-py", "array-record", "cloudpickle", "etils", "protobuf", "dill", "fsspec",
    "huggingface-hub", "humanize", "loguru", "multiprocess", "tqdm", "filelock", "requests", "lightning-utilities",
    "packaging", "einops", "pyyaml", "xxhash<4", "catalogue", "Brotli", "zstandard", "zstd", "python-snappy",
    "importlib_resources", "zipp", "psutil", "setuptools", "pybind11", "boto3", "tifffile", "portpicker",
    "transformers", "matplotlib", "paramiko", "oci", "azure-storage-blob", "google-cloud-storage",
]
# fmt: on
SHARED = Path(os.environ.get("ESCALA_SHARED_DATA", HERE.parent.parent / "shared" / "data"))


def make_set(root: Path, tokens: int, shard_tokens: int = 1 << 26) -> Manifest:
    """Write a set of random tokens in documents of 2,048."""
    writer, rng = ShardWriter(root, "train/random", "random", 2, shard_tokens), np.random.default_rng(0)
    piece = 1 << 20
    for _ in range(0, tokens, piece):
        block = rng.integers(0, 50_000, size=piece, dtype=np.uint16)
        count = piece // 2048
        writer.append(Encoded(block.tobytes(), [2048] * count, [8192] * count, [1500] * count))
    manifest = Manifest(
        name="random",
        complete=True,
        dtype="uint16",
        vocab_size=50_000,
        eos_id=0,
        tokenizer_hash="",
        config_hash="",
        config={},
        splits={"train": writer.close(), "held_out": []},
    )
    manifest.save(root)
    return manifest


def ours(root: Path, samples: int, *, verify: bool = True, tensors: bool = False) -> dict[str, float]:
    """Return the rate of our reader and the time to its first batch at 80 %, from the open manifest on."""
    tokens = TokenSet.open(root, verify=verify)
    options: dict[str, Any] = {"context_length": LENGTH, "sequences_per_step": BATCH, "micro_batch": BATCH, "seed": 1}
    batches = Batches(tokens, prefetch=0, **options)

    def read(step: int) -> int:
        if tensors:
            return sum(batch.inputs.numel() for batch in batches.step(step))
        return len(tokens.gather(batches.sample_ids(step), LENGTH)) * LENGTH

    read(0)
    begin, seen = time.perf_counter(), 0
    for step in range(1, samples // BATCH + 1):
        seen += read(step)
    rate = seen / (time.perf_counter() - begin)
    step = int(tokens.num_samples(LENGTH) * 0.8) // BATCH
    manifest = tokens.manifest
    begin = time.perf_counter()
    again = TokenSet(manifest, "train", lambda file: root / file, verify=verify)
    Batches(again, prefetch=0, **options).step(step)
    return {"tokens_per_second": rate, "resume_ms": 1e3 * (time.perf_counter() - begin)}


def section_read(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Shuffled batches of 512 sequences of 512 tokens, one process."""
    root, samples = scratch / "set", arguments.tokens // LENGTH * 8 // 10
    make_set(root, arguments.tokens)
    flat = TokenSet.open(root)
    np.save(scratch / "tokens.npy", flat.read(np.array([0]), flat.manifest.tokens("train"))[0])
    python = peers_python(arguments.peers) if arguments.with_peers else None
    readers: dict[str, Callable[[], dict[str, float]]] = {
        "escala": lambda: ours(root, samples),
        "escala, no hashes": lambda: ours(root, samples, verify=False),
        "escala, as int64 tensors": lambda: ours(root, samples, tensors=True),
    }
    if python:
        readers |= {peer: partial(run_peer, python, peer, scratch, samples) for peer in PEERS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    for _ in range(arguments.rounds):
        for name, run in readers.items():
            try:
                found[name].append(run())
            except subprocess.CalledProcessError as error:
                print(f"{name}: {(error.stderr or '').strip().splitlines()[-1:]}", file=sys.stderr)
    for name, results in found.items():
        if results:
            middle = {key: statistics.median(r[key] for r in results) for key in results[0]}
            yield {"section": "read", "reader": name, "rounds": len(results), **middle}


def run_peer(python: Path, peer: str, scratch: Path, samples: int) -> dict[str, float]:
    command = [str(python), str(HERE / "data_peers.py"), peer, str(scratch / "tokens.npy"), str(scratch / peer)]
    done = subprocess.run(
        [*command, str(min(samples, 100 * BATCH))], capture_output=True, text=True, check=True, timeout=300, cwd=scratch
    )
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peers_python(directory: Path) -> Path:
    """Return the interpreter of the peers' environment, made when it is not there."""
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        for packages in (PEER_NEEDS, ["--no-deps", *PEER_PACKAGES]):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (directory / "complete").touch()
    return python


def section_resume(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """First batch at any place of a set of 10^9 tokens, from the open manifest on: nothing mapped, no block checked."""
    root = scratch / "billion"
    make_set(root, arguments.big)
    manifest = Manifest.open(root)
    for share in (0.0, 0.2, 0.5, 0.8, 0.95):
        for batch in (8, BATCH):
            times, work = [], []
            for _ in range(5):
                begin, cpu = time.perf_counter(), time.process_time()
                tokens = TokenSet(manifest, "train", lambda file: root / file)
                step = int(tokens.num_samples(LENGTH) * share) // batch
                options: dict[str, Any] = {"sequences_per_step": batch, "micro_batch": batch, "seed": 1}
                Batches(tokens, context_length=LENGTH, prefetch=0, **options).step(step)
                times.append(1e3 * (time.perf_counter() - begin))
                work.append(1e3 * (time.process_time() - cpu))
            yield {
                "section": "resume",
                "tokens": manifest.tokens("train"),
                "sequences": batch,
                "share": share,
                "ms": statistics.median(times),
                "cpu_ms": statistics.median(work),
            }


def section_order(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The order of a set of 10^12 samples: time of a step, growth of memory."""
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    for step in range(200):
        shuffled(rank_indices((10**6 + step) * BATCH, BATCH, 0, 1), 10**12, 1)
    seconds = (time.perf_counter() - begin) / 200
    grown = psutil.Process().memory_info().rss - before
    yield {"section": "order", "us_per_step_of_512": 1e6 * seconds, "grown_bytes": grown}


def section_write(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Write tokens with all hashes, to disk."""
    block = np.random.default_rng(0).integers(0, 50_000, size=1 << 20, dtype=np.uint16)
    piece, rates, work = Encoded(block.tobytes(), [2048] * 512, [8192] * 512, [1500] * 512), [], []
    for number in range(arguments.rounds):
        writer = ShardWriter(scratch, f"train/written{number}", "random", 2, 1 << 26)
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(64):
            writer.append(piece)
        writer.close()
        rates.append(64 * block.nbytes / (time.perf_counter() - begin) / 1e6)
        work.append(64 * block.nbytes / (time.process_time() - cpu) / 1e6)
    yield {"section": "write", "MB_per_second": statistics.median(rates), "MB_per_cpu_s": statistics.median(work)}


def corpus(limit: int) -> list[str]:
    """Return English novels, or the embedded text where they are absent."""
    path = SHARED / "text" / "eltec_eng.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            documents = (json.loads(line)["text"] for line in lines)
            return list(up_to(documents, limit))
    from trainer.data.source.embedded import documents as embedded

    return list(up_to((row["text"] for row in embedded()), limit))


def up_to(documents: Iterator[str], limit: int) -> Iterator[str]:
    seen = 0
    for text in documents:
        seen += len(text)
        if seen > limit:
            return
        yield text


def section_tokenize(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Encode the same text with as many threads of sentencepiece as we use processes."""
    texts = corpus(20_000_000)
    size = sum(len(text.encode()) for text in texts) / 1e6
    cores = usable_cores()
    for kind in ("bpe", "unigram"):
        model = train_sentencepiece(TokenizerConfig(kind=kind, vocab_size=8192), up_to(iter(texts), 5_000_000))
        save_tokenizer(scratch / kind, "sentencepiece", model)
        processor = load_tokenizer(scratch / kind)._processor  # type: ignore[attr-defined]
        rates: dict[str, list[float]] = {"sentencepiece": [], "sentencepiece, arrays": [], "escala": []}
        for _ in range(arguments.rounds):
            begin = time.perf_counter()
            theirs = processor.encode(texts, num_threads=cores)
            rates["sentencepiece"].append(size / (time.perf_counter() - begin))
            begin = time.perf_counter()
            arrays = [ids.astype("<u2") for ids in processor.encode_as_numpy(texts, num_threads=cores)]
            rates["sentencepiece, arrays"].append(size / (time.perf_counter() - begin))
            with Encoders(scratch / kind, "uint16", cores) as encoders:
                list(encoders.encode(chunks(texts[:1]), SplitRule(0.0)))  # processes have started
                begin = time.perf_counter()
                pieces = [chunk.train for _, chunk in encoders.encode(chunks(texts), SplitRule(0.0))]
                rates["escala"].append(size / (time.perf_counter() - begin))
            mine = np.frombuffer(b"".join(piece.tokens for piece in pieces), "<u2")
            ends = np.cumsum([n for piece in pieces for n in piece.lengths]) - 1
            assert (np.delete(mine, ends) == np.concatenate(arrays)).all(), "the ids differ"
            assert sum(map(len, theirs)) == len(mine) - len(ends)
        middle = {name: statistics.median(values) for name, values in rates.items()}
        yield {
            "section": "tokenize",
            "kind": kind,
            "MB": size,
            "cores": cores,
            "MB_per_second": middle,
            "ratios": {
                name: statistics.median(a / b for a, b in zip(rates["escala"], values, strict=True))
                for name, values in rates.items()
                if name != "escala"
            },
        }


def section_memory(scratch: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Largest resident memory of all processes of a preparation, for a corpus and one ten times as large."""
    texts = corpus(10_000_000)
    for megabytes in (arguments.megabytes // 10, arguments.megabytes):
        path = scratch / f"{megabytes}.jsonl"
        with path.open("w", encoding="utf-8") as out:
            written = number = 0
            while written < megabytes * 10**6:
                line = json.dumps({"text": f"{number} {texts[number % len(texts)]}"}) + "\n"
                written, number = written + len(line), number + 1
                out.write(line)
        values = {
            "name": f"mb{megabytes}",
            "root": str(scratch),
            "sources": [{"path": str(path)}],
            "tokenizer": {"kind": arguments.tokenizer, "vocab_size": 8192, "sample_bytes": "5M"},
        }
        config = parse_section(DataConfig, values, "benchmark")
        command = [sys.executable, "-m", "trainer.data.prepare", "--config", "-"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=HERE.parent)
        assert process.stdin is not None
        process.stdin.write(json.dumps(config.model_dump(mode="json")).encode())
        process.stdin.close()
        peak = {"together": 0, "largest": 0}
        while process.poll() is None:
            sizes = resident(process.pid)
            peak = {"together": max(peak["together"], sum(sizes)), "largest": max(peak["largest"], *sizes)}
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
        assert process.returncode == 0, "its memory would be that of a preparation that failed"
        yield {
            "section": "memory",
            "tokenizer": arguments.tokenizer,
            "input_MB": written / 1e6,
            "peak_MB": {k: v / 1e6 for k, v in peak.items()},
            "s": seconds,
        }


def resident(pid: int) -> list[int]:
    """Return the memory of a process and its descendants; pages that they share are counted once, with their owner."""
    sizes = [0]
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ended holds nothing; the others still do
                sizes.append(process.memory_full_info().pss)
    return sizes


SECTIONS = {
    "read": section_read,
    "resume": section_resume,
    "order": section_order,
    "write": section_write,
    "tokenize": section_tokenize,
    "memory": section_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--tokens", type=int, default=50_000_000, help="tokens of the set that everyone reads")
    parser.add_argument("--big", type=int, default=1_000_000_000, help="tokens of the set to resume in")
    parser.add_argument("--megabytes", type=int, default=1000, help="input of the memory section")
    parser.add_argument("--tokenizer", default="bpe", choices=["bpe", "bytes"], help="of the memory section")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache" / "escala" / "benchmark-peers")
    parser.add_argument("--no-peers", dest="with_peers", action="store_false")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for name in arguments.sections or list(SECTIONS):
        with tempfile.TemporaryDirectory() as scratch:
            for row in SECTIONS[name](Path(scratch), arguments):
                print(json.dumps(row), flush=True)
                if arguments.out:
                    with arguments.out.open("a") as out:
                        out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

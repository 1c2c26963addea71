"""Read the same tokens with one peer, in the peers' environment: `data_peers.py PEER TOKENS.npy SCRATCH SAMPLES`.

Prints one JSON line: tokens per second of shuffled batches of 512 samples of 512 tokens (the peer's own reader, one
process, preparation not counted), and the milliseconds from opening the reader to its first batch at 80 % of the epoch.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np

LENGTH, BATCH = 512, 512
Reader = Callable[[int], Iterator[np.ndarray]]  # first sample -> batches of (BATCH, LENGTH + 1)


def stacked(rows: Iterator) -> Iterator[np.ndarray]:
    batch = []
    for row in rows:
        batch.append(np.asarray(row))
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []


def nanogpt(tokens: np.ndarray, scratch: Path) -> Reader:
    """Random crops of a memory map, as nanoGPT's get_batch does. It has no position to go on from."""
    import torch

    tokens.tofile(scratch / "train.bin")

    def read(first: int) -> Iterator[np.ndarray]:
        while True:
            data = np.memmap(scratch / "train.bin", dtype=np.uint16, mode="r")
            places = torch.randint(len(data) - LENGTH, (BATCH,))
            yield torch.stack([torch.from_numpy(data[i : i + LENGTH + 1].astype(np.int64)) for i in places]).numpy()

    return read


def datatrove(tokens: np.ndarray, scratch: Path) -> Reader:
    from datatrove.utils.dataset import DatatroveFolderDataset

    tokens.tofile(scratch / "00000.ds")

    def read(first: int) -> Iterator[np.ndarray]:
        dataset = DatatroveFolderDataset(
            str(scratch), LENGTH, filename_pattern="*.ds", token_size=2, shuffle=True, seed=1
        )
        return stacked(dataset[k]["input_ids"] for k in range(first, len(dataset)))

    return read


def litdata(tokens: np.ndarray, scratch: Path) -> Reader:
    import functools

    from litdata import StreamingDataset, TokensLoader, optimize

    whole = len(tokens) // (LENGTH + 1) * (LENGTH + 1)
    step = 1 << 20
    spans = [(b, min(b + step, whole)) for b in range(0, whole, step)]
    np.save(scratch / "t.npy", tokens)
    optimize(
        fn=functools.partial(_litdata_piece, str(scratch / "t.npy")),
        inputs=spans,
        output_dir=str(scratch / "lit"),
        chunk_size=(LENGTH + 1) * 16384,
        item_loader=TokensLoader(block_size=LENGTH + 1),
        num_workers=1,
    )

    def read(first: int) -> Iterator[np.ndarray]:
        dataset = StreamingDataset(
            str(scratch / "lit"), item_loader=TokensLoader(block_size=LENGTH + 1), shuffle=True, seed=1
        )
        if first:
            state = {
                "num_samples_yielded": first,
                "num_workers": 1,
                "batch_size": 1,
                "current_epoch": 0,
                "input_dir_path": dataset.input_dir.path,
                "input_dir_url": None,
                "item_loader": dataset.item_loader.state_dict(),
                "drop_last": dataset.drop_last,
                "seed": 1,
                "world_size": 1,
                "shuffle": True,
                "subsampled_files": dataset.subsampled_files,
                "region_of_interest": dataset.region_of_interest,
            }
            dataset.load_state_dict(state)
        return stacked(iter(dataset))

    return read


def _litdata_piece(path: str, span: tuple[int, int]) -> Iterator:
    import torch

    tokens = np.load(path, mmap_mode="r")
    yield torch.from_numpy(tokens[span[0] : span[1]].astype(np.int32))


def mosaicml(tokens: np.ndarray, scratch: Path) -> Reader:
    import types

    # Its image datasets, which nothing here reads, want a torchvision of the same release as torch.
    wanted = {"": (), ".datasets": ("VisionDataset",), ".transforms": (), ".transforms.functional": ("to_tensor",)}
    for part, names in wanted.items():
        module = sys.modules[f"torchvision{part}"] = types.ModuleType(f"torchvision{part}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        for name in names:
            setattr(module, name, object)
    from streaming import MDSWriter, StreamingDataset

    rows = len(tokens) // (LENGTH + 1)
    with MDSWriter(out=str(scratch / "mds"), columns={"tokens": f"ndarray:uint16:{LENGTH + 1}"}) as out:
        for row in tokens[: rows * (LENGTH + 1)].reshape(rows, LENGTH + 1):
            out.write({"tokens": row})

    def read(first: int) -> Iterator[np.ndarray]:
        dataset = StreamingDataset(local=str(scratch / "mds"), shuffle=True, batch_size=BATCH, shuffle_seed=1)
        if first:
            dataset.load_state_dict({
                "epoch": 0, "sample_in_epoch": first, "num_canonical_nodes": dataset.num_canonical_nodes or 1,
                "shuffle_seed": 1, "initial_physical_nodes": 1,
            })  # fmt: skip
        return stacked(row["tokens"] for row in dataset)

    return read


def grain(tokens: np.ndarray, scratch: Path) -> Reader:
    from grain.python import MapDataset, RandomAccessDataSource

    tokens.tofile(scratch / "train.bin")

    class Samples(RandomAccessDataSource):  # type: ignore[misc]
        def __init__(self) -> None:
            self.data = np.memmap(scratch / "train.bin", dtype=np.uint16, mode="r")

        def __len__(self) -> int:
            return (len(self.data) - 1) // LENGTH

        def __getitem__(self, k: int) -> np.ndarray:
            return np.asarray(self.data[k * LENGTH : k * LENGTH + LENGTH + 1])

    def read(first: int) -> Iterator[np.ndarray]:
        shuffled = MapDataset.source(Samples()).shuffle(seed=1).batch(BATCH)
        return (shuffled[k] for k in range(first // BATCH, len(shuffled)))

    return read


def megatron(tokens: np.ndarray, scratch: Path) -> Reader:
    import torch
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from megatron.core.datasets.utils import Split

    prefix = str(scratch / "corpus")
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(50_000))
    for begin in range(0, len(tokens), 2048):
        builder.add_document(
            torch.from_numpy(tokens[begin : begin + 2048].astype(np.int64)), [len(tokens[begin : begin + 2048])]
        )
    builder.finalize(f"{prefix}.idx")

    class Tokenizer:
        eod, pad, vocab_size = 0, 0, 50_000
        unique_identifiers = {"class": "none"}  # noqa: RUF012

    def read(first: int) -> Iterator[np.ndarray]:
        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=LENGTH,
            blend=([prefix], None),
            split="1,0,0",
            path_to_cache=str(scratch / "cache"),
            tokenizer=Tokenizer(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        low = GPTDataset.build_low_level_dataset(prefix, config)
        documents = np.arange(GPTDataset.numel_low_level_dataset(low), dtype=np.int32)
        dataset = GPTDataset(low, prefix, documents, (len(tokens) - 1) // LENGTH, Split.train, config)
        return stacked(dataset[k]["tokens"] for k in range(first, len(dataset)))

    return read


PEERS = {f.__name__: f for f in (nanogpt, datatrove, litdata, mosaicml, grain, megatron)}


def measure(read: Reader, samples: int, first: int) -> dict[str, float]:
    """Return the rate over `samples` samples from the start, and the time to the first batch at `first`."""
    batches = read(0)
    next(batches)  # pages of the file and caches of the reader are warm for everyone
    begin, seen = time.perf_counter(), 0
    for batch in batches:
        seen += batch.size
        if seen >= samples * LENGTH:
            break
    rate = seen / (time.perf_counter() - begin)
    begin = time.perf_counter()
    next(iter(read(first)))
    return {"tokens_per_second": rate, "resume_ms": 1e3 * (time.perf_counter() - begin)}


def main() -> None:
    peer, path, scratch, samples = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    tokens = np.load(path, mmap_mode="r")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    first = int((len(tokens) - 1) // LENGTH * 0.8) // BATCH * BATCH
    result = measure(PEERS[peer](np.asarray(tokens), scratch), samples, first)
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

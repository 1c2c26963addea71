"""On a CPU our code imports nothing that is for GPUs; torch and DeepSpeed look whether triton is there, as they do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOR_GPUS = ("triton", "fla", "flash_attn", "pynvml", "cupy", "apex", "transformer_engine", "xformers", "bitsandbytes")

TRAP = """
import sys
frame = sys._getframe(1)
while "importlib" in frame.f_code.co_filename:
    frame = frame.f_back
ours = [{root!r} + "/trainer", {root!r} + "/launch"]
if frame.f_code.co_filename.startswith(tuple(ours)) or frame.f_code.co_filename == "<string>":
    raise SystemExit("{name} was imported")
raise ImportError("not on a CPU")
"""
STEP = """
import sys, trainer.train, trainer.session
from tests.dist.runs import global_batch, tiny
import torch, torch.distributed as dist
from trainer.engine.build import build_engine
from trainer.models.build import build_model
from trainer.models.transformer.config import TransformerConfig
from trainer.parallel.start import start
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
config = tiny(parallel={"engine": "fsdp"})
mesh = start(config.parallel, torch.device("cpu"))
model = build_model(config.model, 0)
engine = build_engine(config, model, mesh, lr=1e-3, accumulation=1, device=torch.device("cpu"))
assert engine.train_step([global_batch(0)], 1e-3).finite
long = build_model(TransformerConfig(d_model=16, n_layers=1, n_heads=1, vocab_size=8, context_length=512), 0)
text = torch.zeros(1, 512, dtype=torch.int64)
long(text, text, documents=(torch.arange(512) // 100)[None].int()).sum().backward()
assert "torch.nn.attention.flex_attention" not in sys.modules, "masked attention took the path of GPUs"
assert not torch.cuda.is_initialized()
"""


def test_a_step_on_a_cpu_imports_nothing_for_gpus(tmp_path: Path) -> None:
    """Packages of these names are there, and each ends what imports it from our code."""
    for name in FOR_GPUS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP.format(name=name, root=str(ROOT)))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    came = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=False)
    assert came.returncode == 0, came.stderr[-2000:]
    came = subprocess.run(
        [sys.executable, "-c", "import fla"], env=environment, capture_output=True, text=True, check=False
    )
    assert "fla was imported" in came.stderr, "the traps are set"


def test_no_module_of_ours_imports_at_once_what_is_for_gpus() -> None:
    """Inside of a function it may be, which is called where there is a GPU."""
    for path in [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("launch/**/*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & set(FOR_GPUS), path

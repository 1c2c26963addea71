"""The wheel, installed elsewhere without what training needs: planning, rendering, fitting and reporting work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.e2e

# Placed in the environment as sitecustomize: an import of a package that the base dependencies do not bring fails,
# as it would where they alone are installed.
GUARD = """
import sys
ALLOWED = {allowed}
KNOWN = {known}

class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in KNOWN and top not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
        return None

sys.meta_path.insert(0, Guard())
"""

LADDER = "name,N,D,loss\n" + "".join(
    f"r{n}{d},{n},{d},{1.7 + 400 / n**0.34 + 400 / d**0.28}\n"
    for n in (10**6, 3 * 10**6, 10**7, 3 * 10**7)
    for d in (10**8, 10**9, 10**10)
)


def base_distributions() -> set[str]:
    """Return the distributions that `pip install escala`, without an extra, brings; names in lower case with `-`."""
    found: set[str] = set()
    waiting = ["escala"]
    while waiting:
        name = waiting.pop()
        for line in requires(name) or []:
            requirement, _, marker = line.partition(";")
            dependency = normal(re.match(r"[\w.-]+", requirement)[0])
            if "extra" not in marker and "sys_platform" not in marker and dependency not in found:
                found.add(dependency)
                waiting.append(dependency)
    return found


def normal(name: str) -> str:
    """Return a distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the wheel, unpack it outside the checkout, and return an environment with the base dependencies alone."""
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    source = place / "source"  # building writes beside the sources
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True
    )
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", place, source], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", place / "site", wheel], check=True)
    known = packages_distributions()
    base = base_distributions()
    allowed = {top for top, owners in known.items() if any(normal(owner) in base for owner in owners)}
    guard = GUARD.format(allowed=sorted({*allowed, "launch", "trainer", "escala"}), known=sorted(known))
    (place / "site" / "sitecustomize.py").write_text(guard)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ladder.csv").write_text(LADDER)
    return {**os.environ, "PYTHONPATH": str(place / "site"), "PWD": str(elsewhere), "MPLCONFIGDIR": str(place)}


def escala(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    """Run the command as it was installed."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "launch", *words],
        cwd=environment["PWD"], env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_wheel_is_what_runs_and_brings_no_torch(installed: dict[str, str]) -> None:
    code = "import launch, importlib.util; print(launch.__file__); import torch"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=installed["PWD"], env=installed, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(Path(installed["PYTHONPATH"]))
    assert "No module named 'torch'" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("plan tiny", "optimizer"),
        ("plan tiny --set model=10M --vocab 8192 --json", '"name": "tiny"'),
        ("keys parallel", "parallel.tensor"),
        ("render tiny --cluster slurm", "#SBATCH"),
        ("fit ladder.csv --law chinchilla", "alpha"),
        ("report ladder.csv --out report", "report.html"),
        ("jobs --runs .", ""),
        ("doctor", "packages"),
    ],
)
def test_a_login_node_without_torch_can(installed: dict[str, str], command: str, says: str) -> None:
    done = escala(installed, *command.split())
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.parametrize("command", ["train tiny", "sweep run quickstart", "data prepare embedded", "sample ."])
def test_what_needs_a_rank_says_so(installed: dict[str, str], command: str) -> None:
    done = escala(installed, *command.split())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'pip install "escala[train]"' in done.stderr


def test_requirements_pin_what_pyproject_allows() -> None:
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[normal(name)] = version
    wanted = [Requirement(line) for line in requires("escala") or []]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": "train"})]
    assert {normal(r.name) for r in wanted} == set(pins)
    assert [r.name for r in wanted if not r.specifier.contains(pins[normal(r.name)])] == []

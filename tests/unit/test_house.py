"""The walls of the house: who may import whom. One list holds them; what breaks one is named with its file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted([*(ROOT / "trainer").rglob("*.py"), *(ROOT / "launch").rglob("*.py")])


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def importers(package: str) -> list[str]:
    """Return the files that import a package, relative to the root."""
    return [
        str(file.relative_to(ROOT))
        for file in FILES
        if any(name == package or name.startswith(package + ".") for name in imports_of(file))
    ]


def test_every_test_is_collected(request: pytest.FixtureRequest) -> None:
    """pytest leaves out some names of folders by itself, "dist" among them, without a word."""
    left_out = request.config.getini("norecursedirs")
    folders = {folder for file in (ROOT / "tests").rglob("test_*.py") for folder in file.relative_to(ROOT).parts[:-1]}
    assert [folder for folder in folders if any(fnmatch(folder, pattern) for pattern in left_out)] == []


# package -> the folders that may import it
ALONE = {
    "deepspeed": ("trainer/engine/deepspeed/",),
}


def test_no_test_is_named_after_the_second_of_its_collection(request: pytest.FixtureRequest) -> None:
    """Workers that collect in different seconds would have different tests, and none would run."""
    packed = r"\x1f\x8b"  # how a gzip file begins, with its time behind it
    assert [item.nodeid for item in request.session.items if packed in item.nodeid] == []


@pytest.mark.parametrize(("package", "folders"), ALONE.items())
def test_one_folder_imports(package: str, folders: tuple[str, ...]) -> None:
    assert [file for file in importers(package) if not file.startswith(folders)] == []
    assert importers(package), f"nothing imports {package}: the rule is out of date"


def test_the_internals_of_deepspeed_were_read_in_the_installed_version() -> None:
    from trainer.engine.deepspeed.internals import READ_IN

    installed = version("deepspeed")
    assert installed == READ_IN, (
        f"trainer/engine/deepspeed/internals.py relies on what DeepSpeed {READ_IN} does inside, and {installed} is "
        "installed: read each function there against the new source, run tests/dist, and raise READ_IN"
    )


# The border: what `launch` may import of `trainer`. The parts of a family are these, by the name of their module.
BORDER = (
    "trainer.contract", "trainer.config", "trainer.plan", "trainer.models.registry", "trainer.models.roles",
    "trainer.observe.metrics",
    "trainer.models.initial", "trainer.models.mixers.registry", "trainer.models.mixers.base",
)  # fmt: skip
OF_A_FAMILY = ("config", "cost")
# What it imports beside that today, and from where. Only ever take lines out.
OVER_THE_BORDER = {
    "trainer.checkpoint.compatible": {"launch/run/train_story.py"},
    "trainer.checkpoint.manifest": {"launch/commands/checkpoint.py", "launch/sweep/cells/cell.py"},
    "trainer.checkpoint.retention": {"launch/commands/checkpoint.py"},
    "trainer.checkpoint.search": {"launch/commands/checkpoint.py", "launch/sweep/cells/planned.py"},
    "trainer.data.prepare.account": {"launch/run/data_story.py"},
    "trainer.data.store.cache": {"launch/run/data_preparation.py"},
    "trainer.data.store.exchange": {"launch/commands/data.py"},
    "trainer.data.store.inspect": {"launch/commands/data.py"},
    "trainer.data.store.manifest": {
        "launch/commands/data.py", "launch/commands/plan.py", "launch/run/data_preparation.py",
        "launch/run/data_story.py", "launch/sweep/execute/opened.py",
    },
    "trainer.data.store.pinned": {"launch/run/train_story.py"},
    "trainer.data.store.verify": {"launch/run/data_story.py"},
    "trainer.data.tokenize.round_trip": {"launch/run/data_story.py"},
    "trainer.data.tokenize.tokenizer": {"launch/run/data_preparation.py"},
    "trainer.node.compile_cache": {"launch/cluster/local/warm.py"},
    "trainer.node.failure": {
        "launch/cluster/detached.py", "launch/cluster/local/backend.py", "launch/cluster/local/warm.py",
        "launch/cluster/logs.py", "launch/cluster/slurm/batch_output.py",
        "launch/cluster/ssh/backend.py", "launch/planner/verify.py", "launch/watch/traces.py",
    },
    "trainer.node.first_failure": {
        "launch/cluster/local/backend.py", "launch/cluster/local/job.py", "launch/cluster/logs.py"},
    "trainer.node.node_check": {"launch/commands/doctor.py"},
    "trainer.node.rank": {"launch/cluster/local/cold.py"},
    "trainer.node.ssh_end": {"launch/cluster/ssh/connection.py"},
}  # fmt: skip
# Imported by no module of `launch`, and `launch` by none of `trainer`.
NEVER = ("torch", "deepspeed", "accelerate", "datasets", "transformers")

# Each room with the rooms below it, lowest first: a module imports from its own and from those before.
FLOORS = {
    "trainer": (
        ("contract",), ("observe", "node"), ("config", "models"), ("data", "guard"), ("plan",), ("parallel",),
        ("optim",), ("engine",), ("evaluation", "checkpoint"), ("decoding", "loop"), ("session",), ("train",),
        ("replay",),
    ),
    "launch": (
        ("groups", "show"), ("cluster",), ("planner",), ("run", "scaling"), ("sweep", "watch"), ("commands",), ("cli",),
        ("__main__",),
    ),
}  # fmt: skip
# Arrows that go up today. Only ever take lines out.
UPWARD = {
    ("launch.cluster", "launch.run"),
    ("trainer.models", "trainer.plan"),  # a family's cost returns the plan's types
}


def module_of(file: Path) -> str:
    """Return a file's dotted name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


@cache
def own_imports(file: Path, *, late: bool) -> frozenset[str]:
    """Return the project's modules that a file imports; those inside functions only with `late`, types for no one."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if not late and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.update(name if name in MODULES else child.module for name in names)
            walk(child)

    walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(found & MODULES.keys())


def on_the_border(module: str) -> bool:
    parts = module.split(".")
    family = parts[:2] == ["trainer", "models"] and len(parts) == 4 and parts[3] in OF_A_FAMILY
    mixer = parts[:3] == ["trainer", "models", "mixers"] and parts[4:] == ["cost"]
    return family or mixer or any(module == part or module.startswith(part + ".") for part in BORDER)


def test_launch_stays_on_its_side_of_the_border() -> None:
    found: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        if module.startswith("launch"):
            for name in own_imports(file, late=True):
                if name.startswith("trainer") and not on_the_border(name):
                    found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    assert found == OVER_THE_BORDER, "a new crossing is refused; one that has gone leaves the list"


def test_neither_half_imports_what_it_must_not() -> None:
    for package in NEVER:
        assert [file for file in importers(package) if file.startswith("launch/")] == [], package
    assert [file for file in importers("launch") if file.startswith("trainer/")] == []


def test_what_launch_may_import_brings_no_torch() -> None:
    names = [m for m in MODULES if on_the_border(m)]
    code = (
        f"import importlib, sys\nfor m in {names!r}: importlib.import_module(m)\n"
        f"print(sys.modules.keys() & {{*{NEVER!r}}})"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith("set()"), said


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: own_imports(file, late=False) - {module} for module, file in MODULES.items()}
    assert _circle(graph) == []


def test_a_circle_is_found() -> None:
    assert set(_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_arrow_goes_up() -> None:
    found = set()
    for module, file in MODULES.items():
        half, _, rest = module.partition(".")
        for name in own_imports(file, late=False):
            other, _, below = name.partition(".")
            if other == half and rest and below and _floor(half, rest) < _floor(half, below):
                found.add((f"{half}.{rest.split('.')[0]}", f"{half}.{below.split('.')[0]}"))
    assert found == UPWARD, "a new arrow upwards is refused; one that has gone leaves the list"


def _floor(half: str, module: str) -> int:
    room = module.split(".")[0]
    floors = [height for height, rooms in enumerate(FLOORS[half]) if room in rooms]
    assert floors, f"{half}.{room} stands on no floor: give it one in FLOORS"
    return floors[0]


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"^\s*(EXIT_(?!OF\b)[A-Z_]+|AGREED_EXITS)(, EXIT_[A-Z_]+)* = ", "trainer/contract/exit_codes.py"),
        (r"def \w*(claim|next|newest)\w*_attempt\w*\(", "trainer/contract/attempts.py"),
        (r"def looks_secret\(", "trainer/contract/hiding.py"),
        (r"def duration\(", "trainer/contract/durations.py"),
    ],
    ids=["exit codes", "claims of attempts", "names of secrets", "lengths of time"],
)
def test_a_fact_has_one_home(pattern: str, home: str) -> None:
    found = {
        str(file.relative_to(ROOT))
        for file in FILES
        if re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == {home}


def names_of_backends(file: Path) -> set[str]:
    """Return the backends that a file names: in a string that is nothing else, or by importing from their folder."""
    from launch.cluster.backends import BACKENDS

    strings = [
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    folders = {f"launch.cluster.{name}": name for name in BACKENDS}
    named = [*strings, *imports_of(file)]
    imported = {name for word in named for folder, name in folders.items() if f"{word}.".startswith(f"{folder}.")}
    return {word for word in strings if word in BACKENDS} | imported


def test_a_backend_is_named_in_its_folder_and_in_the_registry_alone() -> None:
    """A client library or a program may have a backend's name; the descriptors say which are needed."""
    from launch.cluster.backends import BACKENDS

    found = {}
    for file in FILES:
        place = file.relative_to(ROOT)
        own = {place.parts[2]} if place.parts[:2] == ("launch", "cluster") and len(place.parts) > 3 else set()
        own |= {"accelerate"} if place == Path("trainer/contract/provenance.py") else set()  # the library's version
        if place != Path("launch/cluster/backends.py") and (foreign := names_of_backends(file) - own):
            found[str(place)] = foreign
    assert found == {}
    assert names_of_backends(ROOT / "launch/cluster/backends.py") == set(BACKENDS)
    assert names_of_backends(ROOT / "launch/cluster/slurm/backend.py") == {"slurm"}, "an import is seen"


MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60
LONGEST_CHAIN = 16  # modules that import one another in a row, where the program starts. Only ever lower it.
MOST_ANY = 11.0  # in annotations, per 1,000 lines. Only ever lower it.


def test_files_and_functions_are_short() -> None:
    trees = {file: file.read_text(encoding="utf-8") for file in [*FILES, *(ROOT / "benchmarks").glob("*.py")]}
    assert [str(file) for file, text in trees.items() if text.count("\n") > MOST_LINES] == []
    functions = [
        (f"{file.name}: {node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for file, text in trees.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, lines) for name, lines in functions if lines > MOST_LINES_OF_A_FUNCTION] == []


# Methods of interfaces that other libraries document: io, click, DeepSpeed's mpu, torch.
ELSEWHERE = {
    *("readable", "seekable", "readinto", "seek", "tell"),
    *("list_commands", "get_command", "format_commands", "convert"),
    *("get_data_parallel_group", "get_data_parallel_world_size", "get_data_parallel_rank"),
    *("get_data_parallel_group_ranks", "get_model_parallel_group", "get_model_parallel_world_size"),
    *("get_model_parallel_rank", "forward", "backward"),
}


def test_what_is_public_says_what_it_does() -> None:
    """What a Protocol describes need not be described again by those that keep to it."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    described = ELSEWHERE | {
        member.name
        for node in classes if any("Protocol" in ast.unparse(base) for base in node.bases)
        for member in node.body if isinstance(member, ast.FunctionDef) and ast.get_docstring(member)
    }  # fmt: skip

    def silent(node: ast.Module | ast.ClassDef) -> Iterator[str]:
        for member in node.body:
            if isinstance(member, ast.FunctionDef | ast.ClassDef) and not member.name.startswith("_"):
                if ast.get_docstring(member) is None and member.name not in described:
                    yield member.name
                yield from silent(member) if isinstance(member, ast.ClassDef) else ()

    assert [f"{file}: {name}" for file, tree in trees.items() for name in silent(tree)] == []


def test_the_longest_chain_of_imports_does_not_grow() -> None:
    graph = {module: own_imports(file, late=False) - {module} for module, file in MODULES.items()}

    @cache
    def chain(module: str) -> tuple[str, ...]:
        below = (chain(name) for name in sorted(graph[module]))
        return max(((module, *rest) for rest in below), key=len, default=(module,))

    longest = max(map(chain, graph), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_any_does_not_spread() -> None:
    texts = [file.read_text(encoding="utf-8") for file in FILES]
    names = (node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name))
    share = 1000 * sum(node.id == "Any" for node in names) / sum(text.count("\n") for text in texts)
    assert share <= MOST_ANY, "say what a value is, or `object` where it is only passed on"

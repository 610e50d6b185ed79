"""Imports point one way, and the packages are this checkout's."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"controller", "policies", "runtime", "simulations", "training", "commands"}
HEAVY = {"torch", "ray", "transformers"}

# What each package may import of ours, and which outside packages it may not.
MAY_IMPORT = {
    "controller": {"controller"},
    "policies": {"policies", "controller"},
    "simulations": {"simulations", "controller", "policies"},
    "runtime": {"runtime", "controller", "policies"},
    "training": {"training", "runtime"},
}
MUST_NOT_IMPORT = {
    "controller": HEAVY | {"aiohttp", "fastapi"},
    "policies": HEAVY | {"pynvml", "numpy", "aiohttp", "fastapi"},
    "simulations": HEAVY | {"pynvml", "fastapi"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        assert names & OURS <= MAY_IMPORT[package], path
        assert not names & MUST_NOT_IMPORT.get(package, set()), path


def test_the_vocabulary_imports_nothing_of_ours() -> None:
    assert not imported(ROOT / "controller" / "signals.py") & OURS


def test_pynvml_is_imported_in_one_place() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        if "pynvml" in imported(path)
    ]
    assert users == ["controller/metrics.py"]


def test_controller_and_policies_never_read_the_clock() -> None:
    for package in ("controller", "policies"):
        for path in (ROOT / package).rglob("*.py"):
            assert "time" not in imported(path) or path.name == "metrics.py", path


@pytest.mark.parametrize("package", sorted(OURS))
def test_packages_come_from_this_checkout(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / package

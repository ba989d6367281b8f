"""The house keeps its plan: sizes of files and functions, nothing that shadows Python's own, docstrings."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("platform/cogvideox", "platform/groundwork", "platform/conductor", "data_pipeline", "training", "serving")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split() if (ROOT / name).is_file()]


def source_files() -> list[Path]:
    return [path for path in python_files() if str(path.relative_to(ROOT)).startswith(SOURCES)]


def test_no_file_is_longer_than_the_limit() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in python_files() if (n := len(p.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long == {}


def test_no_function_is_longer_than_the_limit() -> None:
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert long == []


def test_every_source_module_opens_with_what_it_is_for() -> None:
    silent = [str(p.relative_to(ROOT)) for p in source_files() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


@pytest.mark.parametrize("name", ["platform/__init__.py", "tests/platform", "tests/__init__.py"])
def test_nothing_shadows_pythons_own_platform_module(name: str) -> None:
    assert not (ROOT / name).exists()


def test_ray_is_imported_only_where_the_plan_allows() -> None:
    allowed = {"pipeline.py", "stages.py", "trainer.py", "previews.py", "ray_session.py", "__main__.py", "submit.py"}
    outside = []
    for path in source_files():
        if path.name in allowed or "serving" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            outside += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] == "ray"]
    assert outside == []


def test_no_path_of_a_developers_machine_is_named() -> None:
    marks = ("/" + "work/", "/" + "root/")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = []
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ""}:
            text = path.read_text(errors="replace")
            named += [f"{name}: {mark}" for mark in marks if mark in text]
    assert named == []

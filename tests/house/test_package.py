"""What is installed is what is in the tree, and imports follow the house's rules."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "agents",
    "benchmarks",
    "devices",
    "formats",
    "hardware",
    "ledger",
    "plans",
    "reading",
    "scopes",
    "scripts",
    "server",
    "startup",
    "tiled_config",
)


def package_files() -> set[str]:
    modules = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    data = {*(ROOT / "scopes").rglob("*.yml"), *(ROOT / "scopes").rglob("*.cfg"), *(ROOT / "startup").glob("*.yaml")}
    return {f"queuescope/{path.relative_to(ROOT)}" for path in {*modules, *data, *ROOT.glob("*.py"), ROOT / "py.typed"}}


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(copy),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == package_files()


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_inside_the_package_are_relative(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            absolute = [
                name for name in names if name.partition(".")[0] in {"queuescope", "config", "layout", *FOLDERS}
            ]
            assert not absolute, f"{path.relative_to(ROOT)}:{node.lineno} imports {absolute}"  # type: ignore[attr-defined]


def test_folders_are_those_of_the_package() -> None:
    """A new folder with Python in it must be listed in pyproject.toml."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    within = {
        f"queuescope.{path.parent.parent.name}.{path.parent.name}" for path in ROOT.glob("[a-z]*/[a-z_]*/__init__.py")
    }
    assert {"queuescope", *(f"queuescope.{folder}" for folder in FOLDERS)} | within == set(listed)
    with_python = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_python == set(FOLDERS)

"""``scripts/queuescope`` installs itself once, with only Python and pip there, wherever it lies. A tiny package stands in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
ROOT = SCRIPTS.parent

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "queuescope"
version = "1"
[project.optional-dependencies]
all = []
dev = []
[project.scripts]
queuescope = "tiny:main"
[tool.setuptools]
py-modules = ["tiny"]
"""
TINY = "import os, sys\ndef main():\n    print(sys.argv[1:], os.getcwd())\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with a space in its path, holding a package without dependencies."""
    root = tmp_path / "my project"
    (root / "scripts").mkdir(parents=True)
    for name in ("queuescope", "_first_use.sh", "_install.py"):
        shutil.copy(SCRIPTS / name, root / "scripts" / name)
    (root / "pyproject.toml").write_text(PROJECT)
    pin = re.search(r"^setuptools==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pin is not None
    (root / "constraints.txt").write_text(pin.group() + "\n")
    (root / "tiny.py").write_text(TINY)
    return root


def start(root: Path, *words: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [root / "scripts" / "queuescope", *words],
        cwd=root.parent,
        env={**os.environ, "QUEUESCOPE_PYTHON": sys.executable, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def use(root: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    process = start(root, *words, **environ)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def test_first_use_installs_and_later_uses_are_the_installed_command(clone: Path) -> None:
    """Also from another working directory, with a space in the path, through a link, and twice at once."""
    both = [start(clone, "one argument", "*"), start(clone, "two")]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == f"['one argument', '*'] {clone.parent}\n"
    assert sum("making" in stderr for _, stderr in outputs) == 1
    assert "WARNING" not in outputs[0][1] + outputs[1][1]

    link = clone.parent / "bin" / "queuescope"
    link.parent.mkdir()
    link.symlink_to("../my project/scripts/queuescope")
    again = subprocess.run([link], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")

    (clone / "pyproject.toml").write_text(PROJECT.replace('"1"', '"2"'))
    code, _, stderr = use(clone)
    assert code == 0
    assert "installing" in stderr
    assert "making" not in stderr
    assert use(clone)[2] == ""

    moved = clone.rename(clone.with_name("moved"))
    code, _, stderr = use(moved)
    assert code == 0, stderr
    assert "making" in stderr


def test_a_half_made_environment_is_made_anew(clone: Path) -> None:
    """It was killed while it installed; then nothing that fits could be found; then all is well."""
    process = start(clone)
    assert process.stderr is not None
    line = ""
    while "installing" not in line:
        line = process.stderr.readline()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    good = (clone / "constraints.txt").read_text()
    (clone / "constraints.txt").write_text("setuptools==0.0.1\n")  # there is none
    code, _, stderr = use(clone)
    assert code == 1
    assert "making" in stderr
    assert "setuptools" in stderr
    assert "the installation failed" in stderr
    assert "install.log" in stderr

    (clone / ".venv" / "lib" / "half-installed").mkdir(parents=True)
    (clone / "constraints.txt").write_text(good)
    code, stdout, stderr = use(clone, "ready")
    assert code == 0, stderr
    assert stdout.startswith("['ready']")
    assert not (clone / ".venv" / "lib" / "half-installed").exists()


def test_an_old_python_is_refused_with_the_remedy(clone: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        (old / name).write_text("#!/bin/sh\nexit 1\n")
        (old / name).chmod(0o755)
    for tool in ("bash", "cat", "cmp", "dirname", "grep", "readlink"):
        (old / tool).symlink_to(shutil.which(tool) or tool)
    code, _, stderr = use(clone, PATH=str(old), QUEUESCOPE_PYTHON="")
    assert code == 1
    assert "needs Python 3.11 or newer" in stderr
    assert "QUEUESCOPE_PYTHON=" in stderr
    assert not (clone / ".venv").exists()

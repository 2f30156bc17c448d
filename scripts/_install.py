"""First use: make ``.venv`` in the repository and install the package with the pinned constraints.

Run by ``scripts/queuescope`` and ``scripts/test`` as ``python _install.py ROOT EXTRA`` with whatever Python is there: standard
library only. Safe to interrupt and to run twice at once; a changed ``pyproject.toml`` or ``constraints.txt`` installs anew.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

INCLUDES = {"all": ["all"], "dev": ["all", "dev"]}
"""What an extra brings with it."""


class Seal:
    """The folder ``.venv/installed``: written last, it says from which files, where, and with which extras."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv" / "installed"

    def extras(self) -> list[str]:
        """The extras that are installed from the present files; empty where something changed."""
        try:
            for name in ("pyproject.toml", "constraints.txt"):
                if (self.folder / name).read_bytes() != (self.root / name).read_bytes():
                    return []
            if (self.folder / "root").read_text().strip() != str(self.root):
                return []
            return (self.folder / "extras").read_text().split()
        except FileNotFoundError:
            return []

    def write(self, extras: list[str]) -> None:
        self.folder.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copyfile(self.root / name, self.folder / name)
        (self.folder / "root").write_text(f"{self.root}\n")
        (self.folder / "extras").write_text("".join(f"{extra}\n" for extra in extras))


def main() -> int:
    root, extra = Path(sys.argv[1]), sys.argv[2]
    venv = root / ".venv"
    venv.mkdir(exist_ok=True)
    with open(venv / "install.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("somebody else is installing queuescope here: waiting for that to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        seal = Seal(root)
        present = seal.extras()
        if extra in present and runs(venv):
            return 0
        # Without a seal somebody stopped half-way, or the folder moved: nothing in there can be relied on.
        moved = not seal.folder.is_dir() or (seal.folder / "root").read_text().strip() != str(root) or not runs(venv)
        wanted = "dev" if extra == "dev" or (not moved and "dev" in (seal.folder / "extras").read_text()) else extra
        shutil.rmtree(seal.folder, ignore_errors=True)
        if moved:
            make(venv)
        if not install(root, venv, wanted):
            return 1
        seal.write(INCLUDES[wanted])
    return 0


def say(line: str, end: str = "\n") -> None:
    print(line, end=end, file=sys.stderr, flush=True)


def runs(venv: Path) -> bool:
    python = venv / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def make(venv: Path) -> None:
    """An empty environment, of this Python."""
    for entry in venv.iterdir():
        if entry.name == "install.lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    say(f"first use: making {venv} with Python {sys.version.split()[0]} ({sys.executable})")
    command = [sys.executable, "-m", "venv", str(venv)]
    if (
        importlib.util.find_spec("ensurepip") is None
    ):  # some distributions package it apart; this Python's own pip will do
        command.append("--without-pip")
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        say(made.stdout + made.stderr)
        sys.exit(f"error: {venv} could not be made: is the module venv of {sys.executable} complete?")


def install(root: Path, venv: Path, extra: str) -> bool:
    """``pip install -e .[extra]`` with the pinned constraints; its output goes to ``.venv/install.log``."""
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip"]
    if subprocess.run([python, "-c", "import pip"], capture_output=True).returncode:
        pip = [sys.executable, "-m", "pip", "--python", python]
    pip += ["install", "--disable-pip-version-check", "-c", "constraints.txt"]
    log_path = venv / "install.log"
    say(f"installing queuescope[{extra}], a minute or two (log: {log_path})")
    began = time.monotonic()
    with open(log_path, "w", encoding="utf-8") as log:
        # The build tool first, pinned like the rest: pip would fetch its newest version into an environment of its own.
        code = run([*pip, "setuptools"], root, log) or run(
            [*pip, "--no-build-isolation", "-e", f".[{extra}]"], root, log
        )
    if code:
        lines = [
            line for line in log_path.read_text(encoding="utf-8").splitlines() if not line.startswith("WARNING: Loc")
        ]
        say("\n".join(["", *lines[-20:], ""]))
        say(f"error: the installation failed (pip ended with {code}); everything it said: {log_path}")
        return False
    compile_ours(root, python)
    say(f"installed in {time.monotonic() - began:.0f} s")
    return True


def compile_ours(root: Path, python: str) -> None:
    """As pip has compiled the packages: else the first start of each process would, several of them the same files at once."""
    ours = [*root.glob("*.py"), *(path.parent for path in root.glob("*/__init__.py"))]
    subprocess.run([python, "-m", "compileall", "-q", *map(str, sorted(ours))], capture_output=True)


def run(command: list[str], root: Path, log: IO[str]) -> int:
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        follow(process.stdout, log)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        sys.exit("\ninterrupted: the next use starts anew")
    return process.wait()


def follow(lines: IO[str], log: IO[str]) -> None:
    """Copy pip's words to the log, and show how far it is: in place on a terminal, else every few seconds."""
    terminal, shown, packages = sys.stderr.isatty(), time.monotonic(), 0
    for line in lines:
        log.write(line)
        word, _, rest = line.strip().partition(" ")
        if word in ("Collecting", "Processing") and not rest.startswith("."):
            packages += 1
            name = re.split(r"[^A-Za-z0-9_.]", Path(rest.split()[0]).name)[0]
            text = f"  {packages} packages found, now {name}"
        elif word == "Installing" and rest.startswith("collected"):
            text = f"  unpacking {packages} packages" if packages > 1 else "  unpacking the build tool"
        else:
            continue
        if terminal:
            say(f"\r\033[K{text[:78]}", end="")
        elif word == "Installing" or time.monotonic() - shown > 10:
            say(text)
            shown = time.monotonic()
    if terminal:
        say("\r\033[K", end="")


if __name__ == "__main__":
    sys.exit(main())

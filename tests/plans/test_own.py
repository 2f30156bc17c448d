"""A lab's own package: the one that docs/how-to/your-own-plan.md builds, installed as it stands there (issue 5, item 10)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-own-plan.md"

SESSION = """
import json
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.plans import Circumstances, check
from queuescope.startup._session import open_session

session = open_session()
kwargs = {"axis": "z", "times": 2}
metadata = session.run_metadata({"name": "repeatability", "kwargs": kwargs})
outcome = session.run_engine(session.plans["repeatability"](**kwargs), **metadata)
template = session.templates["repeatability"]
here = {axis: 0.0 for axis in session.scope.axes()}
dry = [
    check(template, {"axis": "z", "by_um": by}, session.scope, Circumstances(positions=here | {"z": 230.0}))
    for by in (10.0, 30.0)
]
steps = session.templates["protocol"].check({"steps": [{"plan": "repeatability", "kwargs": kwargs}]}).steps
log = session.layout.document_log(outcome.run_start_uids[0]).read_text().splitlines()
descriptor = next(json.loads(line)["doc"] for line in log if json.loads(line)["name"] == "descriptor")
session.hardware.close()
print(json.dumps({
    "result": outcome.plan_result, "device": "pc_load" in session.devices, "keys": sorted(descriptor["data_keys"]),
    "dry": [[found.ok, found.moves, [problem.loc for problem in found.problems]] for found in dry], "steps": len(steps),
}))
"""


BROKEN = """
import importlib, json, sys
from queuescope.config import load_scope
from queuescope.devices import AdditionError, _additions
from queuescope.plans import templates

scope, found = load_scope("demo-dispim"), []
for site in sys.argv[1:]:
    sys.path[:0] = [site]
    importlib.invalidate_caches()
    _additions._points.cache_clear()
    sys.modules.pop("lab_plans", None)
    try:
        templates(scope)
        found.append("nothing")
    except AdditionError as error:
        found.append(str(error))
    sys.path.remove(site)
print(json.dumps(found))
"""
REPLACED = {
    ("repeatability = ", "snap = "): "there is a plan, device or light 'snap' already",
    ("pc_load = ", "cam_a = "): "there is a plan, device or light 'cam_a' already",
    ("pc_load = ", "repeatability = "): "there is a plan, device or light 'repeatability' already",
    ("repeatability = ", "Repeat-me = "): "its name is not of the form",
    ("import os\n", "import osss\n"): "ModuleNotFoundError: No module named 'osss'",
    ("lab_plans:pc_load", "lab_plans:pc_lode"): "has no attribute 'pc_lode'",
    ("lab_plans:pc_load", "lab_plans:__name__"): "which can't be called",
    ('"times": 2}', '"times": 0}'): "ParameterError",
    ('Template("repeatability"', 'Template("other"'): "which is not called 'repeatability'",
    ("return Template(", "return dict("): "TypeError",
}
"""What is changed in the package, and what is said then."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, installed without a network; the folder to put on the path."""
    folder = tmp_path_factory.mktemp("lab")
    files = re.findall(r"^`(lab-plans/\S+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["lab-plans/pyproject.toml", "lab-plans/lab_plans.py"]
    for name, text in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(folder / "site")]
    install = [sys.executable, "-m", "pip", "install", *offline, str(folder / "lab-plans")]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def changed(site: Path, to: Path, old: str, new: str) -> Path:
    """A copy in which these words are others."""
    shutil.copytree(site, to, ignore=shutil.ignore_patterns("__pycache__"))
    files = [to / "lab_plans.py", next(to.glob("*.dist-info")) / "entry_points.txt"]
    texts = [file.read_text() for file in files]
    assert any(old in text for text in texts)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text.replace(old, new))
    return to


def python(site: Path, data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(site),
        "QUEUESCOPE_DATA": str(data),
        "QUEUESCOPE_SCOPE": "demo-dispim",
        "QUEUESCOPE_MICROMANAGER__PROCESS": "worker",
        "QUEUESCOPE_STORAGE__MIN_FREE_GB": "0",
    }
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environ, timeout=120)


def test_the_page_s_package_runs(site: Path, tmp_path: Path) -> None:
    """Its plan and device are there, checked without hardware, run, and may be a step of a protocol."""
    done = python(site, tmp_path, "-c", SESSION)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["result"] | {"run_uid": None} == {"run_uid": None, "axis": "z", "worst_um": 0.0}
    assert (found["device"], found["steps"], found["keys"]) == (True, 1, ["pc_load", "z"])
    assert found["dry"] == [[True, 6, []], [False, 0, ["z"]]]


def test_a_package_that_can_t_be_used_is_named(site: Path, tmp_path: Path) -> None:
    """A name that is taken, code that is broken: which entry point of which package, and why."""
    sites = [changed(site, tmp_path / str(n), *words) for n, words in enumerate(REPLACED)]
    done = python(tmp_path, tmp_path, "-c", BROKEN, *map(str, sites))
    assert done.returncode == 0, done.stderr
    for words, said in zip(REPLACED.values(), json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert words in said
        assert re.search(r"entry point queuescope\.\w+: \S+ = lab_plans:\w+ of lab-plans 1\.0", said), said


def test_nothing_starts_with_a_broken_package(site: Path, tmp_path: Path) -> None:
    """Its name is the last word of the queue server, which `up` shows."""
    broken = changed(site, tmp_path / "site", "import os\n", "import osss\n")
    done = python(broken, tmp_path, "-m", "queuescope.startup")
    assert done.returncode == 1, done.stdout
    assert "queuescope.startup: entry point queuescope.devices: pc_load" in done.stderr

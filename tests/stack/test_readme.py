"""The README's Python, run as it stands against a live stack."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def blocks(section: str, page: str = "README.md") -> list[str]:
    text = (ROOT / page).read_text()
    body = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in body if part.startswith(section)]
    return re.findall(r"```python\n(.*?)```", found, flags=re.DOTALL)


def test_an_agents_script(stack_no_catalog: Any, tmp_path: Path) -> None:
    """R1.10, R2.3: the how-to page, block by block."""
    from queuescope.agents import keygen

    page = "docs/how-to/agents-scripts.md"
    names: dict[str, Any] = {"data_dir": stack_no_catalog.data, "keyfile": keygen(tmp_path / "exec.key")}
    for section in ("Run a plan", "A script that may", "With an event loop"):
        for block in blocks(section, page):
            exec(compile(block, page, "exec"), names)
    assert names["result"].result["datasets"] == {"overview": 1}
    assert names["event"].terminal
    assert [one.state for one in names["two"]] == ["succeeded"] * 2


def test_an_agent_submits_and_jupyter_reads(stack: Any, tmp_path: Path) -> None:
    names: dict[str, Any] = {"http_url": stack.http, "agent_key": stack.key("agent"), "data_dir": stack.data}
    names["keyfile"] = tmp_path / "exec.key"
    durable, submit = blocks("An agent submits")
    exec(compile(durable, "README.md", "exec"), names)
    assert len(names["stack"].run_uids) == 1
    (read,) = blocks("Jupyter reads a run")
    exec(compile(submit, "README.md", "exec"), names)
    item = stack.wait(names["item_uid"])
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    names["RM"].close()

    (names["run_uid"],) = item["result"]["run_uids"]
    exec(compile(read, "README.md", "exec"), names)
    assert names["middle"].shape == (2048, 2048)
    names["run"].context.http_client.close()


def test_every_link_leads_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_the_commands_of_the_readme_exist(stack: Any) -> None:
    used = set(re.findall(r"^scripts/queuescope (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert {"demo", "up", "run"} <= used
    for name in used:
        assert stack.command(name, "--help").returncode == 0, name

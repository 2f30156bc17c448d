"""What a notebook shows of a run: what it was, how it ended, its datasets with a picture each."""

from __future__ import annotations

import base64
import math
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._run import Run

_STYLE = (
    "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;border:1px solid rgba(128,128,128,.4);"
    "border-radius:6px;padding:10px 14px;display:inline-block;max-width:900px"
)
_FAINT = "opacity:.65"
_COLOURS = {"success": "#2e7d32", "running": "#1565c0"}


def card(run: Run) -> str:
    """HTML without scripts, in ASCII; everything that comes from documents is escaped."""
    start, stop = run.metadata["start"], run.metadata.get("stop") or {}
    status = str(stop.get("exit_status") or "running")
    began = datetime.fromtimestamp(start["time"]).strftime("%Y-%m-%d %H:%M:%S")
    took = f", {stop['time'] - start['time']:.1f} s" if stop.get("time") else ""
    colour = _COLOURS.get(status, "#c62828")
    lines = [
        f'<div style="{_STYLE}">',
        f'<div><b style="font-size:15px">{_text(start.get("plan_name", "run"))}</b> '
        f'<span style="color:{colour};font-weight:600">{_text(status)}</span> '
        f'<span style="{_FAINT}">{began}{took}</span></div>',
        f'<div style="{_FAINT}">uid <code>{_text(start["uid"])}</code>{_about(start)}</div>',
    ]
    if stop.get("reason"):
        lines.append(f'<div style="color:{colour}">{_text(stop["reason"])}</div>')
    arguments = start.get("plan_args") or {}
    if arguments:
        said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        lines.append(f"<div><code>{_text(said[:400])}{'…' if len(said) > 400 else ''}</code></div>")
    pictures = [_dataset(run, name) for name in run.datasets]
    lines.append(f'<div style="display:flex;gap:14px;flex-wrap:wrap;margin-top:8px">{"".join(pictures)}</div>')
    if not pictures:
        lines.append(f'<div style="{_FAINT}">no frames</div>')
    return "".join([*lines, "</div>"]).encode("ascii", "xmlcharrefreplace").decode()


def _about(start: Any) -> str:
    said = [
        f" · {word} {_text(start[key])}"
        for key, word in (("sample_id", "sample"), ("session_id", "session"), ("user", "by"), ("scope", "on"))
        if start.get(key)
    ]
    return "".join(said)


def _dataset(run: Run, name: str) -> str:
    """A picture and a line. A dataset that can't be read says why; the card comes in any case."""
    try:
        frames, path = run.frames(name), run.path(name)
        size = f"{frames.nbytes / 1e9:.2f} GB" if frames.nbytes > 1e8 else f"{frames.nbytes / 1e6:.1f} MB"
        facts = f"{' × '.join(str(n) for n in frames.shape)} {frames.dtype}, {size}"
        where = f"<span title='{_text(path)}'>on this machine</span>" if path else "through Tiled"
        picture = _picture(run, name, frames.shape) if math.prod(frames.shape) else ""
    except Exception as error:
        facts, where, picture = f"{type(error).__name__}: {error}", "", ""
    return f'<div>{picture}<div><b>{_text(name)}</b></div><div style="{_FAINT}">{_text(facts)}<br>{where}</div></div>'


def _picture(run: Run, name: str, shape: tuple[int, ...]) -> str:
    from ._run import THUMBNAIL_PIXELS

    shown = run.preview(name, scale=max(1, math.ceil(max(shape[-2:]) / THUMBNAIL_PIXELS)))
    note = f"frame {shown.first}, grey values {shown.black:g} to {shown.white:g}"
    data = base64.b64encode(shown.png).decode()
    return f'<img style="image-rendering:pixelated;min-height:60px" title="{note}" src="data:image/png;base64,{data}">'


def _text(value: Any) -> str:
    return escape(str(value))

"""HTML reports of one run or of several side by side, with embedded pictures."""

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

from research.common.config import flatten
from research.common.errors import UserError
from research.common.files import read_json, write_atomically
from research.common.storage import AnyPath, absolute
from research.reporting.figures import DPI, learning_curves, png
from research.training.metrics import is_breakdown, read_metrics
from research.training.run import saved_config

_MAX_VALUE = 200  # maximum length of a config value, in characters
REPORT, SUMMARY, FIGURES = "report.html", "summary.json", "figures"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2.5rem auto; max-width: 1080px;
       padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p.subtitle { color: #59636e; margin: .2rem 0 1.4rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
.tile { border: 1px solid #d1d9e0; border-radius: 8px; padding: .6rem 1rem; min-width: 6.5rem; }
.tile b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.tile span { color: #59636e; font-size: .85rem; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { margin: 0; flex: 1 1 0; min-width: 320px; } figure img { max-width: 100%; }
figcaption { color: #59636e; font-size: .85rem; }
table { border-collapse: collapse; font-size: .88rem; }
td, th { text-align: left; padding: .18rem 1.2rem .18rem 0; border-bottom: 1px solid #eaeef2;
         vertical-align: top; font-variant-numeric: tabular-nums; }
code { font-size: .85rem; } summary { cursor: pointer; color: #59636e; margin-top: 2rem; }
"""


def evaluation_file(split: str) -> str:
    """Returns the name of the file with the evaluation of a split."""
    return f"evaluation_{split}.json"


def write_report(workdirs: Sequence[AnyPath], output: AnyPath) -> AnyPath:
    """Writes a report of the runs in the workdirs, and returns its path.

    Raises:
      UserError: a workdir contains no run, or a run without metrics.
    """
    runs = [_Run(workdir) for workdir in workdirs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.workdir) for run in runs]
    sections = [_head(runs[0]) if len(runs) == 1 else _comparison(names, runs)]
    curves = learning_curves({name: run.metrics for name, run in zip(names, runs, strict=True)})
    sections.append(f"<h2>Learning curves</h2>{_image(png(curves))}")
    sections += _test_figures(names, runs)
    if len(runs) == 1:
        sections.append(
            f"<details><summary>Config</summary>{_table(flatten(runs[0].config))}</details>"
        )
    title = html.escape(" and ".join(names))
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    page += f"<style>{_STYLE}</style><body>{''.join(sections)}</body></html>\n"
    write_atomically(output, page)
    return output


class _Run:
    """The files of a workdir that a report shows; data and checkpoints are not opened."""

    def __init__(self, workdir: AnyPath):
        self.workdir, self.name = workdir, absolute(workdir).name
        self.config = saved_config(workdir)
        self.metrics = read_metrics(workdir)
        self.summary = _read(workdir / SUMMARY)
        self.test = _read(workdir / evaluation_file("test"))
        if not self.metrics:
            raise UserError(f"missing metrics in {workdir}; train the run first")

    @property
    def scores(self) -> dict[str, str]:
        """Formatted scores, times and costs by name."""
        scores = {f"test {name}": _number(v) for name, v in self.test.get("metrics", {}).items()}
        scores["steps"] = f"{self.metrics[-1]['step']:,}"
        if self.summary:
            scores["parameters"] = f"{self.summary['parameters']:,}"
            scores["training"] = f"{self.summary['seconds']:.1f} s"
            scores["compiling"] = f"{self.summary['compile_seconds']:.1f} s"
        if "dollars" in self.summary:  # for TPUs
            scores["training and compiling"] = f"${self.summary['dollars']:,.2f}"
        return scores


def _head(run: _Run) -> str:
    task = run.config["task"]
    model = task.get("model", {}).get("type", "")
    subtitle = " · ".join(filter(None, [task["type"], model, _hardware(run.summary)]))
    tiles = "".join(
        f"<div class=tile><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in run.scores.items()
        if not is_breakdown(name)
    )
    parts = {name: value for name, value in run.scores.items() if is_breakdown(name)}
    details = f"<details><summary>By part</summary>{_table(parts)}</details>" if parts else ""
    note = (
        ""
        if run.test
        else "<p>Not evaluated yet; run <code>python -m research.evaluate</code>.</p>"
    )
    command = run.summary.get("command")
    origin = f"<p><code>{html.escape(command)}</code></p>" if command else ""
    title = f"<h1>{html.escape(run.name)}</h1><p class=subtitle>{html.escape(subtitle)}</p>"
    return f"{title}{origin}<div class=tiles>{tiles}</div>{details}{note}"


def _hardware(summary: dict[str, Any]) -> str:
    """Returns a description of the devices, with the price per hour of TPUs."""
    hardware = summary.get("hardware", "")
    if "dollars_per_hour" not in summary:
        return hardware
    return f"{hardware}, ${summary['dollars_per_hour']:,.2f} per hour ({summary['price']})"


def _comparison(names: list[str], runs: list[_Run]) -> str:
    """Returns a table of the scores, and of the config keys that differ between the runs."""
    configs = [flatten(run.config) for run in runs]
    keys = sorted({key for config in configs for key in config})
    different = [k for k in keys if len({json.dumps(config.get(k)) for config in configs}) > 1]
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    rows = [(name, [run.scores.get(name, "-") for run in runs]) for name in scores]
    rows += [(key, [_short(config.get(key, "-")) for config in configs]) for key in different]
    cells = lambda tag, values: "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values)  # noqa: E731
    body = "".join(f"<tr>{cells('th', [name])}{cells('td', values)}</tr>" for name, values in rows)
    return f"<h1>{len(runs)} runs</h1><table><tr>{cells('th', ['', *names])}</tr>{body}</table>"


def _test_figures(names: list[str], runs: list[_Run]) -> list[str]:
    """Returns the figures of the evaluations; those of equal position are side by side."""
    sections = []
    for position in range(max(len(run.test.get("figures", {})) for run in runs)):
        shown, heading = [], ""
        for name, run in zip(names, runs, strict=True):
            figures = list(run.test.get("figures", {}).items())
            if position < len(figures) and (run.workdir / figures[position][1]).exists():
                title, file = figures[position]
                heading = heading or (title if len(runs) == 1 else title.split(",")[0])
                caption = "" if len(runs) == 1 else f"{name}: {title}"
                shown.append(_image((run.workdir / file).read_bytes(), caption))
        sections.append(f"<h2>{html.escape(heading)}</h2><div class=side>{''.join(shown)}</div>")
    return sections


def _table(values: dict[str, Any]) -> str:
    rows = (
        f"<tr><td><code>{html.escape(k)}</code></td><td>{html.escape(_short(v))}</td></tr>"
        for k, v in values.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _short(value: Any) -> str:
    """Truncates long values, such as a vocabulary or a language model."""
    text = str(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}... ({len(text):,} characters)"


def _image(picture: bytes, caption: str = "") -> str:
    data = base64.b64encode(picture).decode()
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    # CSS pixels are 1/96 inch; this width shows a picture at its size in inches.
    width = round(int.from_bytes(picture[16:20], "big") * 96 / DPI)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img width={width} alt="{html.escape(caption)}" src="{source}">{text}</figure>'


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _read(path: AnyPath) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}

"""The HTML report of one run."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from research.common.documentation import Entry
from research.common.errors import UserError
from research.common.files import write_atomically
from research.common.storage import AnyPath, absolute
from research.reporting.comparison import comparison
from research.reporting.elements import Number, config_key, pairs, table
from research.reporting.figures import describe, learning_curves
from research.reporting.html import Html, element, join
from research.reporting.page import page
from research.reporting.runs import RunFiles
from research.reporting.text import duration, shorten

_GIB = 2**30


def write_report(workdirs: Sequence[AnyPath], output: AnyPath) -> AnyPath:
    """Writes a report of the runs in the workdirs, and returns its path.

    Raises:
      UserError: a workdir is listed several times, or contains no run, or a run without metrics.
    """
    for workdir, count in Counter(map(absolute, workdirs)).items():
        if count > 1:
            raise UserError(f"invalid workdirs: {workdir} is listed several times; list it once")
    names = [absolute(workdir).name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = [str(workdir) for workdir in workdirs]
    runs = list(map(RunFiles, workdirs, names))
    sections = _run_sections(runs[0]) if len(runs) == 1 else comparison(runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    write_atomically(output, page(title, *sections))
    return output


def _run_sections(run: RunFiles) -> list[Html]:
    curves = learning_curves({run.name: run.lines}, run.metrics)
    sections = {figure.title: figure.html() for figure in (curves, *run.figures)}
    sections["Config"] = _config(run)
    sections["Environment"] = _environment(run.summary)
    sections["Commands"] = _commands(run)
    links = [element("a", title, href=f"#{_anchor(title)}") for title in sections]
    shown = [
        element("section", element("h2", title), content, id=_anchor(title))
        for title, content in sections.items()
    ]
    return [*_head(run), element("nav", *links), element("div", *shown, class_="sections")]


def _head(run: RunFiles) -> list[Html]:
    task, summary = run.config["task"], run.summary
    kinds = [task.get(key, {}).get("type", "") for key in ("model", "source")]
    about = [run.task, *kinds, summary.get("hardware", "")]
    when = []
    if "finished" in summary:
        when.append(f"finished {datetime.fromisoformat(summary['finished']):%Y-%m-%d %H:%M} UTC")
    if commit := summary.get("environment", {}).get("commit"):
        when.append(f"commit {commit[:10]}{commit[40:]}")
    parts = [
        element("h1", run.name),
        element("p", " · ".join(filter(None, about)), class_="faint"),
        element("p", " · ".join(when), class_="faint") if when else Html(),
        _scores(run),
    ]
    parts += [element("p", note, class_="note") for note in run.notes]
    if run.parts:
        parts.append(element("details", element("summary", "Scores by part"), _parts(run)))
    return [*parts, _tiles(_facts(run)), _time(summary)]


def _scores(run: RunFiles) -> Html:
    """Returns tiles of the scores, the one that counts first and largest."""
    named = {}
    for name, value in run.scores.items():
        metric = describe(name, run.metrics)
        unit = element("small", f" {metric.unit}")
        named[f"{run.split} {metric.title}"] = join([metric.number(value), unit])
    return _tiles(named, emphasize=True)


def _tiles(values: Mapping[str, str], emphasize: bool = False) -> Html:
    """Returns values under their names."""
    parts = [
        element(
            "div",
            element("dt", name),
            element("dd", value),
            class_="main" if emphasize and not number else None,
        )
        for number, (name, value) in enumerate(values.items())
    ]
    return element("dl", *parts, class_="tiles" if emphasize else "tiles facts")


def _facts(run: RunFiles) -> dict[str, str]:
    """Returns size, time and costs of a training."""
    summary = run.summary
    values = {"steps": f"{run.steps:,}"}
    if not summary:
        return values
    if "epoch" in summary:
        values["epochs"] = f"{summary['epoch']:,}"
    values["parameters"] = f"{summary['parameters']:,}"
    values["training"] = duration(summary["seconds"])
    values["compiling"] = duration(summary["compile_seconds"])
    if total := summary.get("total_seconds"):
        values["goodput (training / all time)"] = f"{100 * summary['seconds'] / total:.0f} %"
    if "mfu" in summary:
        values["MFU (of the peak in 16 bits)"] = f"{100 * summary['mfu']:.1f} %"
    for kind in ("host", "device"):
        if peak := summary.get(f"peak_{kind}_bytes"):
            values[f"peak {kind} memory"] = f"{peak / _GIB:.2f} GiB"
    if "dollars" in summary:
        price = f"${summary['dollars_per_hour']:,.2f} per hour, {summary['price']}"
        values[f"training and compiling, at {price}"] = f"${summary['dollars']:,.2f}"
    return values


def _time(summary: Mapping[str, Any]) -> Html:
    """Returns a bar of where the time went."""
    total = summary.get("total_seconds")
    if not total:
        return Html()
    parts = {"training": summary["seconds"], "compiling": summary["compile_seconds"]}
    parts["start, evaluation and saving"] = max(0.0, total - sum(parts.values()))
    spans, names = [], []
    for color, (name, seconds) in enumerate(parts.items()):
        spans.append(element("span", class_=f"c{color}", style=f"width: {seconds / total:.1%}"))
        swatch = element("span", class_=f"swatch c{color}")
        names.append(element("li", swatch, f"{name} {duration(seconds)}"))
    label = f"{duration(total)} until the end of training"
    return join(
        [
            element("p", label, class_="caption"),
            element("div", *spans, class_="shares", role="img", aria_label=label),
            element("ul", *names, class_="plain"),
        ]
    )


def _parts(run: RunFiles) -> Html:
    rows = []
    for name, value in run.parts.items():
        metric = describe(name, run.metrics)
        rows.append((metric.title, Number(metric.text(value), value)))
    return table(("metric", run.split), rows)


def _config(run: RunFiles) -> Html:
    """Returns a table of the config, with defaults where they are known."""
    if run.entries is not None:
        return _entries(run.entries)
    rows = [
        (config_key(key), element("code", shorten(str(value)))) for key, value in run.values.items()
    ]
    return table(("key", "value"), rows)


def _entries(entries: Sequence[Entry]) -> Html:
    """Returns a table of the config; keys that differ from their default are marked."""
    shown = [entry for entry in entries if entry.value is not None]
    rows = []
    for entry in shown:
        key = config_key(entry.key, entry.documentation)
        default = "" if entry.is_default else shorten(entry.default or "")
        rows.append((key, element("code", shorten(entry.value or "")), element("code", default)))
    changed = [not entry.is_default for entry in shown]
    text = f"{sum(changed)} of {len(changed)} keys differ from their default and are bold."
    return join(
        [
            element("p", text, class_="caption"),
            element("input", type="checkbox", id="all-keys", class_="all-keys"),
            element("label", " show all keys", for_="all-keys"),
            table(("key", "value", "default"), rows, changed),
        ]
    )


def _environment(summary: Mapping[str, Any]) -> Html:
    if not summary:
        return element("p", "Recorded when the training has finished.", class_="caption")
    values = {"hardware": summary.get("hardware", ""), **summary.get("environment", {})}
    return pairs(values)


def _commands(run: RunFiles) -> Html:
    """Returns the commands that repeat the training and use the run, quoted for a shell."""
    workdir = f"--workdir={absolute(run.workdir)}"
    commands = [run.summary["command"]] if "command" in run.summary else []
    for name, *more in (("evaluate",), ("predict", "INPUT"), ("report",)):
        commands.append(shlex.join(["python", "-m", f"research.{name}", workdir, *more]))
    return join(element("div", element("pre", text), class_="command") for text in commands)


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())

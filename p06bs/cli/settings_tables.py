"""Tables of settings and presets in the terminal."""

import json
import time
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from p06bs.cli.terminal import SHOWN, console, folded


def show_all(records: dict[str, Any]) -> None:
    """Print who changed the settings of all pipelines when."""
    table = Table(*folded("pipeline", "change", "changed by", "since", "preset", "digest", "runs"))
    for name, record in sorted(records.items()):
        table.add_row(
            escape(name),
            str(record["revision"]),
            escape(record["changed_by"]),
            _when(record["since"]),
            escape(record["preset"]),
            record["digest"],
            str(len(record["runs"])),
        )
    console.print(table)


def show_one(name: str, record: dict[str, Any], shown: Mapping[str, Any]) -> None:
    """Print the settings of a pipeline: those that are to be `shown`, by path, or all of them."""
    from p06bs.model.ranges import allowed

    fields = record["schema"].get("properties", {})
    table = Table(*folded("setting", "value", "unit", "allowed", "description"))
    for path, value in (shown or record["values"]).items():
        field = path.partition(".")[0]
        about = fields.get(field, {})
        table.add_row(
            escape(path),
            escape(json.dumps(value, ensure_ascii=False)),
            escape(str(about.get("unit", ""))),
            escape(allowed(record["schema"], path)),
            escape(about.get("description", "")),
        )
    console.print(table)
    who = f", changed by {record['changed_by']} at {_when(record['since'])}"
    preset = f", preset {record['preset']}" if record["preset"] else ""
    changed = who if record["changed_by"] else ""
    console.print(escape(f"{name}: change {record['revision']}{changed}{preset}"), soft_wrap=True)
    for run in record["runs"]:
        console.print(escape(_of_run(run)), soft_wrap=True)


def _of_run(run: dict[str, Any]) -> str:
    """Return what is to be said of the settings of a run, in a line."""
    scan = f"scan {run['scan_id']} " if run["scan_id"] is not None else ""
    again = f", reprocessing {run['reprocessing']}" if run["reprocessing"] else ""
    preset = f" (preset {run['preset']})" if run["preset"] else ""
    head = f"{scan}({run['run'][:SHOWN]}{again}): change {run['change']}{preset}"
    if run["state"] == "in force":
        head += f" holds from event {run['first_row'] + 1} on, in stream {run['stream']}"
    elif run["state"] == "left":
        head += f", but it is left: {run['reason']}"
    else:
        head += " holds from the next event on"
    for change, reason in run["refused"].items():
        head += f"; it refused change {change}: {reason}"
    return head


def show_presets(presets: list[dict[str, Any]]) -> None:
    """Print the presets of a pipeline."""
    table = Table(*folded("preset", "beamtime", "sample", "settings"))
    for preset in presets:
        said = f"cannot be used: {preset['problem']}" if preset["problem"] else ""
        table.add_row(
            escape(preset["name"]),
            escape(preset["beamtime_id"]),
            escape(preset["sample"]),
            escape(said or ", ".join(preset["settings"])),
        )
    console.print(table)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""

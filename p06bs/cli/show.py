"""``p06bs show``: maps and curves of a run, in the terminal or as a file."""

from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from p06bs.cli.errors import UsageError
from p06bs.cli.terminal import AsJson, console, folded, print_json, remark

if TYPE_CHECKING:
    from p06bs.model.picture import Picture
    from p06bs.model.statistics import Statistics
    from p06bs.services._pictures import Showable
    from p06bs.services._recorded_pictures import Shown

LOG = Path("var/log")
LINES = 24
"""Of a picture, at most, where nobody says how many the terminal has."""


def complete_shown_run(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the runs of the directory of logs, the newest log first."""
    from p06bs.bus.log import DocumentLog

    directory = _directory(ctx.params.get("log"), ctx.params.get("file"))
    if directory.is_dir():
        uids = reversed(DocumentLog(directory).runs())
        yield from (uid for uid in uids if uid.startswith(incomplete))


def complete_map(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the names of what can be shown of the run on the command line."""
    directory = _directory(ctx.params.get("log"), ctx.params.get("file"))
    try:
        shown = _shown(directory, ctx.params.get("run") or "-1")
    except (UsageError, ValueError, OSError):
        return
    yield from (name for name in shown.showables if name.startswith(incomplete))


def show(
    run: Annotated[
        str,
        typer.Argument(
            help="uid of a run, or its beginning; -1 is the newest raw run, -2 the one before. "
            "Of a raw run all that was derived from it counts, too",
            autocompletion=complete_shown_run,
        ),
    ] = "-1",
    name: Annotated[
        str,
        typer.Argument(
            metavar="[MAP]",
            help="name of a map or curve, with or without its source: xrf.Fe_K, or Fe_K; all are "
            "listed, and the first is shown, without it",
            autocompletion=complete_map,
        ),
    ] = "",
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="configuration; says where logs are")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help=f"directory of logs; that of the configuration, or {LOG}, by default"),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="write the picture into this file instead")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a map or a curve of a run, while the scan runs or later.

    It is read from the logs: no service is needed.
    """
    if run.startswith("--"):
        raise UsageError(f"no such option: {run}; see p06bs show --help")
    shown = _shown(_directory(log, file), run)
    if not shown.showables:
        raise UsageError(
            f"run {shown.run} ({shown.title}) has neither maps nor curves: it has no points "
            "yet, or no numbers in them"
        )
    chosen = _chosen(shown, name) if name else next(iter(shown.showables))
    if as_json:
        names = [chosen] if name else list(shown.showables)
        print_json({"run": shown.run, "maps": [_plain(shown, each) for each in names]})
    elif not name:
        _list(shown)
    if as_json and png is None:
        return
    picture = shown.showables[chosen].look()
    title = _title(shown, chosen, picture)
    if png is not None:
        _write(png, picture, title)
        remark(f"wrote {png}")
        return
    _draw(picture, title)


def _directory(log: Path | str | None, file: Path | str | None) -> Path:
    from p06bs import config

    if log is not None:
        return Path(log)
    return LOG if file is None else config.load(Path(file)).bus.log


def _shown(directory: Path, run: str) -> "Shown":
    try:
        from p06bs.services._recorded_pictures import pictures_of
    except ImportError as error:
        raise UsageError(
            f"to make maps install the extra server: pip install 'p06bs[server]' ({error})"
        ) from error
    if not directory.is_dir():
        raise UsageError(f"{directory} does not exist; say where the logs are with --log or --file")
    return pictures_of(directory, run)


def _chosen(shown: "Shown", name: str) -> str:
    """Return the full name of what is called so; the most important one, if there are several.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name in shown.showables:
        return name
    found = [each for each in shown.showables if each.partition(".")[2] == name]
    if found:
        return found[0]
    short = [each.partition(".")[2] for each in shown.showables]
    close = dict.fromkeys(get_close_matches(name, [*shown.showables, *short], n=3))
    hint = f" (is it {' or '.join(close)}?)" if close else ""
    raise UsageError(
        f"run {shown.run[:8]}, {shown.title}, has no map {name!r}{hint}; "
        "without a name all are listed"
    )


def _title(shown: "Shown", name: str, picture: "Picture") -> str:
    unit = f" ({picture.unit})" if picture.unit else ""
    return f"{name}{unit}, {shown.title}, {picture.rows} points"


def _plain(shown: "Shown", name: str) -> dict[str, Any]:
    picture = shown.showables[name].look()
    return {
        "name": name,
        "run": shown.runs[name],
        "kind": picture.kind,
        "unit": picture.unit,
        "shape": list(picture.values.shape),
        "axes": [asdict(picture.y), asdict(picture.x)],
        "rows": picture.rows,
        "statistics": asdict(picture.statistics),
    }


def _list(shown: "Shown") -> None:
    table = Table(
        Column("name", no_wrap=True),
        *folded("kind", "unit", "shape", "filled", "minimum", "mean", "maximum"),
    )
    for name, showable in shown.showables.items():
        table.add_row(escape(name), *_cells(showable))
    console.print(escape(f"run {shown.run}, {shown.title}"), soft_wrap=True)
    console.print(table)


def _cells(showable: "Showable") -> tuple[str, ...]:
    picture = showable.look()
    ny, nx = picture.values.shape
    known = picture.statistics
    numbers = ("" if n is None else f"{n:.5g}" for n in (known.min, known.mean, known.max))
    shape = f"{nx}" if picture.kind == "curve" else f"{ny} x {nx}"
    return (
        picture.kind, escape(picture.unit or ""), shape, f"{known.count / (ny * nx):.0%}", *numbers
    )  # fmt: skip


def _draw(picture: "Picture", title: str) -> None:
    from p06bs.cli.drawing import curve, heat_map

    known = picture.statistics
    console.print(escape(title), style="bold", soft_wrap=True, highlight=False)
    height = min(console.height - 4, 2 * LINES) if console.is_terminal else LINES
    width = min(console.width, 120)
    if picture.kind == "curve":
        lines = curve(picture, width, height)
    else:
        low, high = known.low or 0.0, known.high or 0.0
        colours = console.color_system is not None
        lines = heat_map(picture, low, high, width, height, colours=colours)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(_summary(picture, known), soft_wrap=True, highlight=False)


def _summary(picture: "Picture", known: "Statistics") -> str:
    if known.min is None or known.max is None:
        return "nothing is there yet"
    unit = f" {picture.unit}" if picture.unit else ""
    mean = "" if known.mean is None else f", mean {known.mean:.6g}"
    return (
        f"{known.count} of {picture.values.size} values, {known.min:.6g} to {known.max:.6g}{mean}"
        f"{unit}"
    )


def _write(file: Path, picture: "Picture", title: str) -> None:
    """Write a picture with axes and a bar of its colours.

    Raises
    ------
    UsageError
        If Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"--png needs the extra plot: pip install 'p06bs[plot]' ({error})"
        ) from error

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    x, y = picture.x, picture.y
    axes.set_xlabel(x.label)
    if picture.kind == "curve":
        places = x.places(picture.values.shape[1]) if picture.places is None else picture.places
        axes.plot(places, picture.values[0])
        axes.set_ylabel(picture.unit or "")
    else:
        known, extent = picture.statistics, picture.edges
        shown = axes.imshow(
            picture.values, origin="lower", extent=extent, vmin=known.low, vmax=known.high,
            interpolation="nearest", aspect="equal" if x.unit == y.unit else "auto",
        )  # fmt: skip
        axes.set_xlim(*sorted(extent[:2]))
        axes.set_ylim(*sorted(extent[2:]))
        axes.set_ylabel(y.label)
        figure.colorbar(shown, label=picture.unit or "")
    figure.savefig(file, format="png", dpi=120)

"""systemd units of the services of a configuration file, for hosts that have no ``p06bs up``."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from p06bs import config
from p06bs.services._host import REFUSED
from p06bs.services._order import FIRST, turn
from p06bs.services._supervisord_conf import STOP_SECONDS

STEPS_SINCE = 254
"""systemd that can start what fails again and again later and later."""
TARGET = "p06bs.target"
MARK = "# Made by p06bs units from {}; made anew, not edited."


def units(
    file: Path,
    definitions: Mapping[str, config.Definition],
    *,
    directory: Path,
    user: bool = False,
    version: int = 0,
) -> dict[str, str]:
    """Return the text of each unit by the name of its file.

    One target starts and stops all; replicas are instances of a template.

    Parameters
    ----------
    file : Path
    definitions : mapping of str to Definition
        The services of this host.
    directory : Path
        In which they run: relative paths of the file begin there.
    user : bool
        For the systemd of a user, instead of that of the system.
    version : int
        Of systemd; what it does not know yet is left out.
    """
    mark = MARK.format(file)
    first = {_unit(name, one): one.kind for name, one in definitions.items() if one.kind in FIRST}
    made: dict[str, str] = {}
    for name, one in definitions.items():
        template, argument = _template(name, one)
        after = [u for u, kind in first.items() if turn(kind) < turn(one.kind)]
        sections = {
            "Unit": [
                f"Description=p06bs service {argument}",
                f"PartOf={TARGET}",
                *([] if user else ["Wants=network-online.target"]),
                f"After={' '.join([*([] if user else ['network-online.target']), *after])}",
                "StartLimitIntervalSec=0",
            ],
            "Service": [
                "Type=exec",
                f"WorkingDirectory={_escaped(str(directory))}",
                *(f"Environment={_quoted(f'{k}={v}')}" for k, v in _environment(one)),
                f"ExecStart={_quoted(sys.executable)} -m p06bs.services "
                f"{_argument(str(file))} {argument}",
                "Restart=on-failure",
                f"RestartPreventExitStatus={REFUSED}",
                *(
                    ["RestartSec=1", "RestartSteps=5", "RestartMaxDelaySec=30"]
                    if version >= STEPS_SINCE
                    else ["RestartSec=5"]
                ),
                "KillMode=mixed",
                f"TimeoutStopSec={STOP_SECONDS}",
            ],
        }
        made[template] = _text(mark, sections)
    made[TARGET] = _text(
        mark,
        {
            "Unit": [
                f"Description=p06bs: the services of {_escaped(str(file))}",
                *(f"Wants={_unit(name, one)}" for name, one in definitions.items()),
            ],
            "Install": [f"WantedBy={'default' if user else 'multi-user'}.target"],
        },
    )
    return made


def write(made: Mapping[str, str], directory: Path, file: Path) -> list[str]:
    """Write units into a directory; remove and return those of the same file that are no more."""
    directory.mkdir(parents=True, exist_ok=True)
    mark = MARK.format(file)
    stale = [
        path
        for path in sorted(directory.glob("p06bs-*.service"))
        if path.name not in made and path.read_text(errors="replace").startswith(mark + "\n")
    ]
    for name, text in made.items():
        (directory / name).write_text(text, encoding="utf-8")
    for path in stale:
        path.unlink()
    return [path.name for path in stale]


def _template(name: str, one: config.Definition) -> tuple[str, str]:
    """Return the file of a service's unit, and its name as the unit says it."""
    if one.replicas == 1:
        return f"p06bs-{_ascii(name)}.service", name
    base, _, _ = name.rpartition("-")
    return f"p06bs-{_ascii(base)}@.service", f"{base}-%i"


def _unit(name: str, one: config.Definition) -> str:
    """Return what a service's unit is called."""
    template, _ = _template(name, one)
    return template if one.replicas == 1 else template.replace("@", f"@{name.rpartition('-')[2]}")


def _ascii(name: str) -> str:
    """Return a name as systemd allows it."""
    return re.sub(
        r"[^\w.\-]", lambda c: "".join(f"\\x{b:02x}" for b in c[0].encode()), name, flags=re.ASCII
    )


def _environment(one: config.Definition) -> Iterator[tuple[str, str]]:
    yield "PYTHONUNBUFFERED", "1"
    yield from one.environment.items()


def _text(mark: str, sections: Mapping[str, list[str]]) -> str:
    parts = ["\n".join([f"[{name}]", *lines]) for name, lines in sections.items()]
    return mark + "\n" + "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Return text without specifiers."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _argument(text: str) -> str:
    """Return an argument of a command, in which a dollar begins a variable."""
    return _quoted(text).replace("$", "$$")

"""The text of supervisord's configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

START_SECONDS = 10
"""What ends sooner is started again later and later; what ends after it, at once."""
STOP_SECONDS = 30
"""What has not ended so long after SIGTERM is killed."""
LOG_BYTES = 10_000_000
LOG_FILES = 3

HEAD = f"""\
[unix_http_server]
file=%(here)s/socket
chmod=0700

[supervisord]
logfile=%(ENV_P06BS_LOGS)s/supervisord.log
logfile_maxbytes={LOG_BYTES}
logfile_backups={LOG_FILES}
pidfile=%(here)s/pid
childlogdir=%(ENV_P06BS_LOGS)s
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
# What may hold any character comes by the environment: this format has no way to quote it.
# Names of logs are expanded twice. Nothing starts by itself: who starts services says which.
PROGRAM = f"""
[program:{{name}}]
command=%(ENV_P06BS_PYTHON)s -m p06bs.services %(ENV_P06BS_FILE)s {{name}}
priority={{priority}}
environment={{environment}}
autostart=false
autorestart=unexpected
exitcodes=0
startsecs={START_SECONDS}
startretries=1000000
stopwaitsecs={STOP_SECONDS}
killasgroup=true
redirect_stderr=true
stdout_logfile=%%(ENV_P06BS_LOGS)s/{{name}}.log
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_FILES}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A service as supervisord is to run it.

    Attributes
    ----------
    name : str
    turn : int
        Those with a smaller one start before. Nothing here may depend on what other services
        there are: one that changes is started anew.
    environment : mapping of str to str
    """

    name: str
    turn: int
    environment: Mapping[str, str]


def configuration(programs: Iterable[Program]) -> str:
    """Return the configuration of a supervisord."""
    return HEAD + "".join(
        PROGRAM.format(
            name=program.name,
            priority=program.turn,
            environment=",".join(f"{k}={_quoted(v)}" for k, v in program.environment.items()),
        )
        for program in programs
    )


def _quoted(value: str) -> str:
    """Return a value as supervisord's configuration wants it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'

"""Services as devices of Tango: one device class for all of them, and its server."""

import math
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import tango
from tango.server import Device, attribute, command, device_property, run

from p06bs.adapters.tango_attributes import ELEMENTS, LONGEST, Attribute, legible
from p06bs.adapters.tango_watch import Report, Watch

OWN = ("State", "Status")
"""Attributes that every device has."""
STOP_SECONDS = 0.2
"""Interval at which the server looks whether it is to end."""


class TangoError(RuntimeError):
    """Tango's database does not do what is needed; says what."""


class P06bsService(Device):
    """A service of p06bs: its state, commands, settings and metrics.

    Attributes of settings are writable and called PIPELINE_SETTING; the others are metrics,
    under Prometheus' names. They are made when the device begins, and anew when the service
    turns out to have others; Tango tells clients by an event.
    """

    watches: ClassVar[Mapping[str, Watch]] = {}
    """By the name of the service."""

    Service = device_property(dtype=str, mandatory=True, doc="name of the service")
    Kind = device_property(dtype=str, default_value="", doc="kind of the service")
    File = device_property(dtype=str, default_value="", doc="configuration that describes it")

    def __init__(self, *arguments: Any) -> None:
        self._watch: Watch
        self._begun = False
        self._inherits = True
        self._offered: dict[str, Attribute] = {}
        self._values: dict[str, Any] = {}
        super().__init__(*arguments)

    def init_device(self) -> None:
        """Begin, with the attributes that the service has now."""
        super().init_device()
        if self.Service not in self.watches:
            _fail("NoService", f"no service {self.Service!r}; there are {', '.join(self.watches)}")
        self._watch = self.watches[self.Service]
        for name in OWN:
            self._tell_of(name)
        self._disinherit()
        self._show(self._watch.report)
        self._watch.tell = self._take
        self._begun = True

    def delete_device(self) -> None:
        """End."""
        with tango.AutoTangoMonitor(self):
            if self._begun:
                self._watch.tell = _nobody
        super().delete_device()

    @command
    def Start(self) -> None:  # noqa: N802
        """Have the service started; State says when it is up."""
        _attempt(self._watch.start)

    @command
    def Stop(self) -> None:  # noqa: N802
        """Have the service end in good order; State says when it has."""
        _attempt(self._watch.stop)

    @command
    def Restart(self) -> None:  # noqa: N802
        """Have the service end in good order, and start again."""
        _attempt(self._watch.restart)

    def _take(self, report: Report) -> None:
        """Take a report from the thread that watches."""
        with tango.AutoTangoMonitor(self):
            if self._watch.tell == self._take:
                self._disinherit()
                self._show(report)

    def _show(self, report: Report) -> None:
        self._offer(report.values)
        state = getattr(tango.DevState, report.state)
        if state != self.get_state():
            self.set_state(state)
            self._push("State", state)
        if legible(report.status) != self.get_status():
            self.set_status(legible(report.status))
            self._push("Status", legible(report.status))
        for spec, value in report.values.items():
            if spec.name not in self._values or not _same(self._values[spec.name], value):
                self._values[spec.name] = value
                self._push(spec.name, *self._reading(spec.name))

    def _disinherit(self) -> None:
        """Remove what other devices have: Tango gives a new one all attributes of its class."""
        if not self._inherits:
            return
        names = [one.get_name() for one in self.get_device_attr().get_attribute_list()]
        try:
            for name in names:
                if name not in OWN and name not in self._offered:
                    self.remove_attribute(name)
        except tango.DevFailed:
            return  # DevRestart: a device that is not listed yet cannot; it can when it is told
        self._inherits = False

    def _offer(self, values: Mapping[Attribute, Any]) -> None:
        wanted = {spec.name: spec for spec in values}
        for name, spec in list(self._offered.items()):
            if wanted.get(name) != spec:
                self.remove_attribute(name)
                del self._offered[name]
                self._values.pop(name, None)
        for name, spec in wanted.items():
            if name not in self._offered:
                self.add_attribute(self._attribute(spec))
                self._tell_of(name)
                self._offered[name] = spec

    def _attribute(self, spec: Attribute) -> Any:
        element = ELEMENTS[spec.kind]
        form = {"format": "%.9g"} if element is float else {}  # Tango's own has two decimals
        written = {"fset": self._write} if spec.setting else {}
        return attribute(
            name=spec.name,
            dtype=(element,) if spec.many else element,
            **({"max_dim_x": LONGEST} if spec.many else {}),
            doc=spec.description,
            unit=spec.unit,
            fget=self._read,
            **form,
            **written,
        )

    def _tell_of(self, name: str) -> None:
        """Have Tango know that events of an attribute are pushed when it changes."""
        self.set_change_event(name, True, False)
        self.set_archive_event(name, True, False)

    def _push(self, name: str, *reading: Any) -> None:
        self.push_change_event(name, *reading)
        self.push_archive_event(name, *reading)

    def _reading(self, name: str) -> tuple[Any, float, Any]:
        value = self._values[name]
        if value is None:
            invalid = tango.AttrQuality.ATTR_INVALID
            return self._offered[name].nothing, self._watch.report.when, invalid
        return value, self._watch.report.when, tango.AttrQuality.ATTR_VALID

    def _read(self, asked: Any) -> tuple[Any, float, Any]:
        return self._reading(asked.get_name())

    def _write(self, asked: Any) -> None:
        spec = self._offered[asked.get_name()]
        by = _named(self.get_client_ident())
        self._show(_attempt(self._watch.change, spec, asked.get_write_value(), by))


def serve(
    server: str,
    devices: Mapping[str, Mapping[str, str]],
    watches: Mapping[str, Watch],
    address: str,
    stopping: Callable[[], bool],
    ready: Callable[[], None],
) -> None:
    """Serve devices until it is to end, or Tango says so; in the main thread, once a process.

    Parameters
    ----------
    server : str
        ``SERVER/INSTANCE``.
    devices : mapping
        Properties by the name of the device.
    watches : mapping of str to Watch
        By the name of the service.
    address : str
        IP address on which to listen.
    stopping : callable
        Blocks for up to `STOP_SECONDS`; returns whether it is to end.
    ready : callable
        Called when the devices can be used.

    Raises
    ------
    TangoError
        If the database does not answer, or another server has one of the devices.
    """
    # Clients listen, too, and this process is one of the database before it is a server.
    os.environ["ORBendPoint"] = f"giop:tcp:{address}:0"  # noqa: SIM112
    register(server, devices)
    P06bsService.watches = watches
    try:
        for watch in watches.values():
            watch.begin()
        for watch in watches.values():
            watch.wait_looked()
        run(
            [P06bsService],
            args=server.split("/"),
            event_loop=stopping,
            post_init_callback=ready,
            msg_stream=None,
            raises=True,
        )
    except tango.DevFailed as error:
        raise TangoError(said(error)) from error
    finally:
        for watch in watches.values():
            watch.close()


def register(server: str, devices: Mapping[str, Mapping[str, str]]) -> None:
    """Have Tango's database know the devices of a server, and no others of it.

    Raises
    ------
    TangoError
        If it does not answer, or another server that runs has one of the devices.
    """
    try:
        database = tango.Database()
        for name in database.get_device_name(server, P06bsService.__name__):
            if name.lower() not in map(str.lower, devices):
                database.delete_device(name)
        for name, properties in devices.items():
            _check_free(database, name, server)
            device = tango.DbDevInfo()
            device.name, device.server, device._class = name, server, P06bsService.__name__
            database.add_device(device)
            database.put_device_property(name, dict(properties))
    except tango.DevFailed as error:
        host = tango.ApiUtil.get_env_var("TANGO_HOST") or "nowhere: $TANGO_HOST is not set"
        raise TangoError(f"Tango's database at {host}: {said(error)}") from error


def address(server: str) -> str:
    """Return where Tango's clients find a device server."""
    return f"tango://{tango.ApiUtil.get_env_var('TANGO_HOST')}/dserver/{server}"


def said(error: Any) -> str:
    """Return what Tango says went wrong, in a line."""
    return " ".join(str(error.args[0].desc).split())


def _check_free(database: Any, name: str, server: str) -> None:
    try:
        known = database.get_device_info(name)
    except tango.DevFailed:  # there is none of the name
        return
    if known.exported and known.ds_full_name.lower() != server.lower() and _answers(known):
        raise TangoError(
            f"the device {name} belongs to the server {known.ds_full_name}, which runs; "
            "end that one, or give these another name: devices = "
            '"DOMAIN/FAMILY/{name}"'
        )


def _answers(known: Any) -> bool:
    """Return whether a server runs; the database goes on to say so of one that was killed."""
    try:
        tango.DeviceProxy(f"dserver/{known.ds_full_name}").ping()
    except tango.DevFailed:
        return False
    return True


def _named(client: Any) -> str:
    """Return who a client of Tango is: process and host are all that it says."""
    _, _, where = client.client_ip.partition("giop:tcp:")  # a path, on this host
    host = where.rpartition(":")[0] or socket.gethostname()
    return f"Tango client, process {client.client_pid} on {host}"


def _attempt(action: Callable[..., Any], *arguments: Any) -> Any:
    """Do what a client asks for; whoever asked is told why it cannot be."""
    try:
        return action(*arguments)
    except (ValueError, RuntimeError, TimeoutError) as error:
        return _fail("Refused", str(error))


def _fail(reason: str, text: str) -> None:
    tango.Except.throw_exception(f"p06bs_{reason}", legible(text), P06bsService.__name__)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _nobody(report: Report) -> None:
    """Take a report for nobody."""

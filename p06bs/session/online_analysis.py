"""The pipelines at the prompt: what they are set to, and what they found last."""

import getpass
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from p06bs.bus.control import ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service

LONGEST = 200
"""Characters of a value among the settings; one by name is shown whole."""

RECORDED = ("values", "digest", "revision", "changed_by", "since", "preset")
"""What is recorded of the settings that are in force."""


class OnlineAnalysis:
    """All pipelines, found through the Topology Manager; each is an attribute, too.

    ``analysis`` lists them, ``analysis.xrf.settings`` shows what one is set to,
    ``analysis.xrf.settings["noise"] = 0.09`` changes it, ``analysis.xrf.results["Fe_K"]`` is
    what it found last.

    Parameters
    ----------
    peers : Membership or None
        Who is there; None if that cannot be known.
    keys : Keys, optional
        With which to ask services on other hosts.
    catalog : callable, optional
        Returns the root of the server's runs, a Tiled client; a `LookupError` says why not.
    seconds : float
        How long a service is waited for.
    """

    def __init__(
        self,
        peers: Membership | None,
        keys: Keys | None = None,
        catalog: Callable[[], Any] | None = None,
        seconds: float = 1.0,
    ) -> None:
        self._peers, self._keys, self._catalog = peers, keys, catalog
        self._seconds = seconds

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Names of the pipelines that are there."""
        return tuple(sorted(name for service in self._hosts() for name in service.offers))

    def settings_in_force(self) -> dict[str, dict[str, Any]]:
        """Return what the pipelines are set to, by name; a ``problem`` of those that do not say.

        Raises
        ------
        ConnectionError
            If the Topology Manager has not been heard of.
        """
        hosts = self._hosts()
        if not hosts:
            return {}
        with ThreadPoolExecutor(len(hosts), thread_name_prefix="asking") as threads:
            answers = list(threads.map(self._settings_of, hosts))
        return {name: said for answer in answers for name, said in answer.items()}

    def __getattr__(self, name: str) -> "Pipeline":
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in (known := self.pipelines):
            raise AttributeError(
                f"there is no pipeline {name!r}; there are {', '.join(known) or 'none'}"
            )
        return Pipeline(name, self._ask, self._catalog)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._known()})

    def __repr__(self) -> str:
        try:
            settings = self.settings_in_force()
        except ConnectionError as error:
            return f"<no pipelines: {error}>"
        lines = [
            f"{name}: {said['problem']}"
            if "problem" in said
            else f"{name}: change {said['revision']} by {said['changed_by'] or 'nobody'}"
            for name, said in sorted(settings.items())
        ]
        return "\n".join(lines) or "<no pipelines>"

    def _known(self) -> tuple[str, ...]:
        try:
            return self.pipelines
        except ConnectionError:
            return ()

    def _hosts(self) -> list[Service]:
        if self._peers is None:
            raise ConnectionError("there is no connection to a Topology Manager")
        if not self._peers.listed:
            raise ConnectionError(f"no Topology Manager answers at {self._peers.address}")
        return [service for service in self._peers.services if service.offers]

    def _settings_of(self, host: Service) -> dict[str, dict[str, Any]]:
        try:
            said = ask(
                host.addresses["control"], "settings", seconds=self._seconds, keys=self._keys
            )
        except Exception as error:  # it is away, or of another version: others answer
            return {name: {"problem": str(error)} for name in host.offers}
        return {name: {key: one.get(key) for key in RECORDED} for name, one in said.items()}

    def _ask(self, verb: str, of: str, **arguments: Any) -> Any:
        host = next((one for one in self._hosts() if of in one.offers), None)
        if host is None:
            raise ConnectionError(f"no service has a pipeline {of!r} any more")
        address = host.addresses["control"]
        return ask(address, verb, of=of, seconds=10 * self._seconds, keys=self._keys, **arguments)


class Pipeline:
    """One pipeline."""

    def __init__(
        self, name: str, asking: Callable[..., Any], catalog: Callable[[], Any] | None
    ) -> None:
        self.name = name
        self._asking, self._catalog = asking, catalog

    @property
    def settings(self) -> "PipelineSettings":
        """What it is set to; assign to an entry to change it from the next event on."""
        return PipelineSettings(self.name, self._asking)

    @property
    def last(self) -> Any:
        """The newest derived run that it made, a Tiled client.

        Raises
        ------
        LookupError
            If there is no server, or no such run.
        """
        from tiled.queries import Key

        if self._catalog is None:
            raise LookupError("no server is known: results are in the logs (p06bs log ls)")
        runs = self._catalog()["live"].search(Key("start.process.name") == self.name)
        newest = max(runs.values(), key=lambda run: run.metadata["start"]["time"], default=None)
        if newest is None:
            raise LookupError(f"the server has no run of {self.name} yet")
        return newest

    @property
    def results(self) -> "Results":
        """Columns of the newest derived run, by name."""
        return Results(self.last)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}: settings, results, last>"


class PipelineSettings(MutableMapping[str, Any]):
    """Settings by name; ``regions.Fe_K`` is one entry of a table."""

    def __init__(self, pipeline: str, asking: Callable[..., Any]) -> None:
        self._pipeline, self._asking = pipeline, asking

    def __getitem__(self, name: str) -> Any:
        values: Any = self._values()
        for key in name.split("."):
            values = values[key]
        return values

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *values: Any, **named: Any) -> None:
        """Change several at once.

        Raises
        ------
        RefusedError
            If the pipeline refuses them; says which and why. Nothing is changed.
        """
        changed = dict(*values, **named)
        self._asking("change", self._pipeline, values=changed, by=getpass.getuser())

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"settings cannot be deleted; set {name!r} to another value")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        # A mask or a fit configuration has kilobytes.
        lines = ((name, repr(value)) for name, value in self._values().items())
        return "\n".join(
            f"{name} = {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"
            for name, text in lines
        )

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _values(self) -> Mapping[str, Any]:
        values: Mapping[str, Any] = self._asking("settings", self._pipeline)[self._pipeline][
            "values"
        ]
        return values


class Results(Mapping[str, Any]):
    """Columns of a derived run's stream, read when they are asked for."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self._stream = run["primary"]

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"there is no column {name!r}; there are {self._told()}")
        return self._stream[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._stream

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __len__(self) -> int:
        return len(self._stream)

    def __repr__(self) -> str:
        return f"<results of run {self.run.metadata['start']['uid']}: {self._told()}>"

    def _told(self) -> str:
        # Each has its time, many have an uncertainty.
        told = (n for n in self if not n.startswith("ts_") and not n.endswith("_sigma"))
        return ", ".join(told)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

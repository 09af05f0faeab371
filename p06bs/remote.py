"""Runs on a server: find them, read their documents, store derived ones."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from p06bs.bus.closing import Closing
from p06bs.http_api import RUNS
from p06bs.model.documents import NamedDocument
from p06bs.pipeline.decisions import named
from p06bs.recorded import RunError, StoredError

TREES = ("live", "archive")
"""Where a server keeps runs: the newest in memory, all of them in the offline DB, which wins."""

BLOCK = 1 << 20
RECORD = "\x1e"


class ServerError(RunError):
    """The server is not there, has no such run, or refused; says what to do."""


class Server(Closing):
    """A server's runs, seen through a token.

    Parameters
    ----------
    url : str
        ``http://host:port``.
    api_key : str or None
        Token of a user or a service.

    Raises
    ------
    ServerError
        If nobody answers there, or the token is not accepted.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        import httpx
        from tiled.client import from_uri

        self.url = url.rstrip("/")
        with _plainly(f"cannot use the server at {url}"):
            # Tiled's client would try for most of a minute whether anybody answers.
            httpx.get(f"{self.url}/healthz").raise_for_status()
            self._root: Any = from_uri(url, api_key=api_key)
        self._trees: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections."""
        self._root.context.close()

    def find(self, beginning: str) -> str:
        """Return the uid of the one run whose uid begins like this.

        Raises
        ------
        ServerError
            If there is none, or more than one.
        """
        from tiled.queries import Like

        found: dict[str, str] = {}  # uid -> tree
        with _plainly(f"cannot search the server at {self.url}"):
            for tree in TREES:
                if tree not in self._root:
                    continue
                runs = self._root[tree].search(Like("start.uid", f"{beginning}%"))
                # "_" is any character to LIKE.
                uids = (uid for uid in runs.keys().head(100) if uid.startswith(beginning))
                found.update(dict.fromkeys(uids, tree))
        runs = named(beginning, found)
        if len(runs) != 1:
            raise ServerError(f"{len(runs)} runs at {self.url} begin with {beginning!r}")
        self._trees[runs[0]] = found[runs[0]]
        return runs[0]

    def documents(self, uid: str) -> Iterator[NamedDocument]:
        """Yield the documents of a run as they are in its log, arrays as lists.

        Raises
        ------
        ServerError
            If the server does not give them.
        """
        if uid not in self._trees:
            self.find(uid)
        path = f"{self._trees[uid]}/{uid}"
        client = self._root.context.http_client
        url = f"{self._root.context.api_uri}container/full/{path}"
        with (
            _plainly(f"cannot read run {path} from {self.url}"),
            client.stream("GET", url, params={"format": "application/json-seq"}) as response,
        ):
            if response.is_error:
                response.read()
                raise ServerError(f"{self.url} does not give run {path}: {_reason(response)}")
            yield from records(response.iter_text(BLOCK))

    def derived(self, uid: str) -> list[str]:
        """Return the uids of the derived runs of a raw run.

        Raises
        ------
        ServerError
            If the server cannot be searched.
        """
        from tiled.queries import Eq

        found: dict[str, str] = {}  # uid -> tree
        with _plainly(f"cannot search the server at {self.url}"):
            for tree in TREES:
                if tree in self._root:
                    runs = self._root[tree].search(Eq("start.original_run_uid", uid))
                    found.update(dict.fromkeys(runs.keys(), tree))
        self._trees.update(found)
        return list(found)

    def store(self, file: Path) -> str:
        """Give a derived run's log file to the server, which keeps it as if written there.

        Raises
        ------
        StoredError
            If the server has the run already.
        ServerError
            If it refuses it: the token lacks the scopes, or the file is not a whole log of a
            derived run.
        """
        context = self._root.context
        with (
            _plainly(f"cannot store {file.name} at {self.url}"),
            file.open("rb") as content,
        ):
            response = context.http_client.put(
                context.api_uri.copy_with(path=f"{RUNS}/{file.stem}"),
                content=iter(lambda: content.read(BLOCK), b""),
                headers={"Content-Type": "application/octet-stream"},
            )
        if response.is_error:
            refused = StoredError if response.status_code == HTTPStatus.CONFLICT else ServerError
            raise refused(f"{self.url} does not store {file.stem}: {_reason(response)}")
        return self.url


def records(blocks: Iterable[str]) -> Iterator[NamedDocument]:
    """Yield ``(name, document)`` of a JSON text sequence (RFC 7464) that comes in blocks."""
    rest = ""
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        yield from map(_record, filter(str.strip, lines))
    if rest.strip():
        yield _record(rest)


def _record(line: str) -> NamedDocument:
    record = json.loads(line.strip().lstrip(RECORD))
    return record["name"], record["doc"]


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """Turn what goes wrong between here and the server into a ServerError."""
    import httpx
    from tiled.client.utils import ClientError

    try:
        yield
    except ServerError:
        raise
    except (httpx.HTTPError, ClientError, OSError, ValueError) as error:
        said = _reason(error.response) if isinstance(error, ClientError) else str(error)
        raise ServerError(f"{what}: {said or type(error).__name__}") from error


def _reason(response: Any) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text.strip()
    return f"{response.status_code} {detail or response.reason_phrase}"

"""Requests that nobody sends in good faith, made from a server's own OpenAPI description."""

import contextlib
import gzip
import http.client
import json
import random
import socket
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

NUMBERS = [
    "0", "1", "-1", "2", "5", "300", "301", str(2**31), str(2**63), str(-(2**63)), str(2**64),
    "9" * 30, "9" * 5000, "1e9", "NaN", "Infinity", "0x10", "1_0", "٣", "", " 1", "true", "None",
    "1.5",
]  # fmt: skip
TEXTS = [
    "", "a", "x" * 3000, ".", "..", "../..", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "%00",
    "\0", "\r\nX-Evil: 1", "é", "\u202e\U0001f4a9", "'", '"', '"; rm', "${7*7}", "{{7*7}}",
    "<script>", "' OR 1=1 --", "%", "%zz", "\\", "null", "[]", "{}", "[" * 200,
    "file:///etc/passwd", "start.uid", "`x`", "*", "a.b.c", "a/b", "run1", "\ud800", "-", "_",
    "😀" * 50,
]  # fmt: skip
SLICES = [
    "", ":", "::", "::-1", "::0", ":::", "0", "-1", "5:2", "0:3:1", "-5:", "999999999999",
    "0:" + "9" * 20, "9" * 30, ",", ",,", "0,0", "0,0,0,0,0,0", ":,0", "::2,::2", "...", "a",
    "1:2:3:4", "0:1,", "-", ",".join(["0"] * 300), "0:0", "1e5", "--1", ":-0",
]  # fmt: skip
SHAPES = [
    "0", "1", "3,4", "scalar", "-1", "9" * 30, "9" * 5000, "1," * 50, "3,4,5", "", "a", "12",
    "5", "3",
]  # fmt: skip
FORMATS = [
    "csv", "text/csv", "text/html", "text/plain", "application/json", "application/json-seq",
    "json", "image/png", "image/tiff", "png", "tiff", "application/octet-stream",
    "application/x-hdf5", "h5", "application/x-parquet", "application/vnd.apache.arrow.file",
    "xlsx", "text/x-nothing", "*/*", "a/b/c", "", ",", ";", "text/csv;header=absent",
    "application/netcdf", "image/*", "nonsense",
]  # fmt: skip
BODIES = [
    b"", b"{", b"[", b"null", b"true", b"0", b'"x"', b"[]", b"{}", b'["Fe_K"]', b'["x"]', b"[1]",
    b"[null]", b"[[]]", b"\x00\x01\xff", b"\xff\xfe", b"[" * 20_000, b'{"a":' * 5_000,
    b'[' * 900 + b']' * 900, b"1e999", b"NaN", b'{"__proto__": 1}', b"a=b&c=d", b"x" * 20_000,
    gzip.compress(b"0" * 10**6), b'["\\ud800"]', b'{"a": 1, "a": 2}', b"[" + b"9" * 5000 + b"]",
]  # fmt: skip
MEDIA = [
    "application/json", "application/octet-stream", "text/csv",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/vnd.apache.arrow.file", "application/x-msgpack", "",
    "text/plain; charset=nonsense", "a" * 300, "image/png", "application/json; charset=utf-16",
]  # fmt: skip
CREDENTIALS = [
    "Apikey wrong", "Bearer a.b.c", "Bearer", "Basic eDp5", "Apikey", "Apikey é",
    "Apikey " + "0" * 500, "apikey  x", "", "Bearer " + "e30." * 3,
]  # fmt: skip
HEADERS = [
    ("Accept", "application/x-msgpack"), ("Accept", "text/html"), ("Accept", "a" * 500),
    ("Accept", ""), ("Accept-Encoding", "gzip, blosc, zstd, lz4, nonsense"),
    ("Content-Encoding", "gzip"), ("If-None-Match", "x"),
    ("User-Agent", "python-tiled/nonsense"), ("User-Agent", "python-tiled/0.1.0a1"),
    ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-For", "1.2.3.4"),
    ("X-Forwarded-Proto", "javascript"), ("Range", "bytes=0-5"),
    ("Origin", "http://evil.example"), ("Cookie", "tiled_api_key=x; tiled_csrf=é"),
    ("Cookie", "tiled_api_key=é"), ("x-csrf", "é"), ("Cookie", ";;;=;"),
    ("Expect", "100-continue"), ("Content-Length", "5"), ("Transfer-Encoding", "nonsense"),
    ("X-Tiled-Request-ID", "a b"), ("Host", "evil.example:99"), ("Connection", "upgrade"),
    ("Upgrade", "h2c"),
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "TRACE"]


@dataclass
class Request:
    """A request as it goes over the wire."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def wire(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


@dataclass
class Hostile:
    """Makes requests of an API, from a seed.

    Attributes
    ----------
    paths : dict
        ``paths`` of the OpenAPI description.
    nodes : list of str
        Paths of nodes that are there.
    key : str
        A good API key, which most requests have: what needs none is soon tried.
    """

    paths: dict
    nodes: list
    key: str
    seed: int = 0
    components: dict = field(default_factory=dict)

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.operations = [(p, m.upper(), o) for p, ms in self.paths.items() for m, o in ms.items()]

    def request(self) -> Request:
        r = self.random
        path, method, operation = r.choice(self.operations)
        if r.random() < 0.05:
            method = r.choice(METHODS)
        safe = "/%?*'\";:@&=+$,<>\\[]{}|^`" if r.random() < 0.1 else "/%"
        target = quote(self._path(path), safe=safe, errors="replace")
        query = [
            (p["name"], self._value(p["name"], p.get("schema", {})))
            for p in operation.get("parameters", ())
            if p["in"] == "query" and (r.random() < 0.9 if p.get("required") else r.random() < 0.25)
        ]
        if r.random() < 0.05:
            query.append(
                (r.choice(["api_key", "csrf", "access_token", "x[]", "filter"]), r.choice(TEXTS))
            )
        if r.random() < 0.05 and query:
            query += query
        if query:
            target += "?" + "&".join(f"{quote(n)}={quote(v, errors='replace')}" for n, v in query)
        headers = [("Host", "localhost")]
        if r.random() < 0.9:
            headers.append(("Authorization", f"Apikey {self.key}"))
        elif r.random() < 0.5:
            headers.append(("Authorization", r.choice(CREDENTIALS)))
        body = b""
        if method in ("POST", "PUT", "PATCH") or r.random() < 0.02:
            body = self._body(operation)
            headers.append(("Content-Length", str(len(body))))
            headers.append(("Content-Type", r.choice(MEDIA) if r.random() < 0.4 else MEDIA[0]))
        headers += r.sample(HEADERS, r.choice([0, 0, 0, 1, 2]))
        lengths = {"content-length", "transfer-encoding"}
        if sum(n.lower() in lengths for n, _ in headers) > 1:
            headers = [h for h in headers if h[0].lower() not in lengths]
            headers.append(("Content-Length", str(len(body))))
        elif any(n.lower() in lengths for n, _ in headers) and not body:
            headers = [h for h in headers if h[0].lower() not in lengths]
        return Request(method, target, headers, body)

    def _path(self, path: str) -> str:
        r = self.random
        node = r.choice(self.nodes)
        if r.random() < 0.2:
            node = r.choice(
                [*TEXTS, f"{node}/{r.choice(TEXTS)}", f"//{node}", f"{node}/../..", node * 5]
            )
        path = path.replace("{path}", node)
        while "{" in path and "}" in path.partition("{")[2]:
            before, _, rest = path.partition("{")
            path = (
                before
                + r.choice([*TEXTS[:12], "0" * 32, "pam"]).replace("{", "")
                + rest.partition("}")[2]
            )
        return path

    def _value(self, name: str, schema: dict) -> str:
        r = self.random
        if r.random() < 0.1:
            return r.choice(TEXTS)
        if name == "slice":
            return r.choice(SLICES)
        if name == "block":
            return r.choice(
                ["0", "0,0", "0,0,0", "1", "9" * 30, "", "-1", "a", ",", "0," * 99 + "0"]
            )
        if "shape" in name or "offset" in name:
            return r.choice(SHAPES)
        if name in ("format", "filename"):
            return r.choice(FORMATS if name == "format" else TEXTS)
        kinds = [schema.get("type"), *(s.get("type") for s in schema.get("anyOf", ()))]
        if "integer" in kinds or "number" in kinds:
            return r.choice(NUMBERS)
        if "boolean" in kinds:
            return r.choice(["true", "false", "1", "x", ""])
        return r.choice([*TEXTS, *NUMBERS[:5], '"a"', "start.uid", "primary", "x", "Fe_K", "[1,2]"])

    def _body(self, operation: dict) -> bytes:
        r = self.random
        if r.random() < 0.5:
            return r.choice(BODIES)
        content = operation.get("requestBody", {}).get("content", {})
        schema = next(iter(content.values()), {}).get("schema", {})
        return json.dumps(self._json(schema, 0)).encode()

    def _json(self, schema: dict, depth: int):
        r = self.random
        if r.random() < 0.1 or depth > 6:
            return r.choice(
                [None, 0, -1, 2**70, 1e308, "", "x" * 500, "..", "a/b", [], {}, [[]], True, "\0"]
            )
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._json(self.components.get(name, {}), depth + 1)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._json(r.choice(options), depth + 1)
        if "enum" in schema:
            return r.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return {
                name: self._json(one, depth + 1)
                for name, one in schema.get("properties", {"a": {}}).items()
                if name in schema.get("required", ()) or r.random() < 0.5
            }
        if kind == "array":
            return [
                self._json(schema.get("items", {}), depth + 1)
                for _ in range(r.choice([0, 1, 2, 5]))
            ]
        if kind == "integer":
            return r.choice([0, 1, -1, 2**31, 2**63, 2**70])
        if kind == "number":
            return r.choice([0.0, -1.5, 1e308])
        if kind == "boolean":
            return r.random() < 0.5
        return r.choice(
            ["", "x", "..", ".", "a/b", "é", "\0", "run1", "x" * 300, "container", "array", "\n"]
        )


class Wire:
    """Sends requests over one connection, which is made anew when the server closes it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._address = (place.hostname, place.port)
        self._socket = None

    def send(self, request: Request) -> tuple[int, http.client.HTTPMessage | None, bytes]:
        """Return status, headers and content; status 0 if the connection just ends."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(request.wire)
            answer = http.client.HTTPResponse(self._socket, method=request.method)
            answer.begin()
            content = answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            self.close()
            return 0, None, b""
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        return answer.status, answer.headers, content

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None

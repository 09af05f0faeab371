"""Which responses cost memory: by what Tiled would answer with."""

import pytest

from p06bs.server.gate.in_flight import wants_octets


@pytest.mark.parametrize(
    ("query", "accept", "octets"),
    [
        (b"", None, True),
        (b"", "*/*", True),
        (b"", "application/octet-stream, image/png", True),
        (b"", "image/png, */*", False),
        (b"format=application/octet-stream", "image/png", True),
        (b"format=image/png", "*/*", False),
        # Of a parameter that comes twice the last one counts.
        (b"format=application/octet-stream&format=image/png", None, False),
        (b"format=", None, False),
    ],
)
def test_octets_are_what_is_asked_for(query, accept, octets):
    headers = [] if accept is None else [(b"accept", accept.encode())]
    scope = {"type": "http", "query_string": query, "headers": headers}
    assert wants_octets(scope) is octets

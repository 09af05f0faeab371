"""Headers by which browsers protect their user: on everything that goes out."""

import re
from collections.abc import Iterable, Mapping, Sequence

from starlette.types import Scope

from p06bs.config.headers import Headers
from p06bs.server.gate.headers import HeaderList, header

CDN = "https://cdn.jsdelivr.net"

PAGES: tuple[tuple[re.Pattern[str], Mapping[str, Sequence[str]]], ...] = (
    (
        re.compile(r"/docs(/oauth2-redirect)?"),
        {
            "script-src": ("'unsafe-inline'", CDN),
            "style-src": (CDN,),
            "img-src": ("https://fastapi.tiangolo.com",),
        },
    ),
    (re.compile(r"/|/api/v1/auth/provider/[a-z]+/device_code"), {"style-src": (CDN,)}),
)
"""Tiled's pages that take their looks from elsewhere, and what they need beside the policy."""

POLICY = b"content-security-policy"


class Protection:
    """Give answers the headers that protect.

    Parameters
    ----------
    config : Headers
    origins : sequence of str
        Of web pages that may read our answers: those of the gate, too, which come from
        before Tiled's own look at origins.
    """

    def __init__(self, config: Headers, origins: Sequence[str]) -> None:
        directives = dict(config.content_security_policy)
        self._policy = {name.replace("_", "-"): tuple(d) for name, d in directives.items()}
        self._origins = frozenset(origins)
        self._common = _encoded(
            {
                "x-content-type-options": "nosniff",
                "referrer-policy": config.referrer_policy,
                "cross-origin-opener-policy": config.cross_origin_opener_policy,
                "cross-origin-resource-policy": config.cross_origin_resource_policy,
                **_framing(self._policy["frame-ancestors"]),
                **config.more,
            }
        )
        seconds = config.strict_transport_security
        self._tls = _encoded({"strict-transport-security": f"max-age={seconds}"}) if seconds else []

    def policy(self, path: str) -> str:
        """Return the Content-Security-Policy of what is at a path."""
        policy = dict(self._policy)
        for page, more in PAGES:
            if page.fullmatch(path):
                for name, sources in more.items():
                    policy[name] = (*(s for s in policy[name] if s != "'none'"), *sources)
        return "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items())

    def headers(self, given: Iterable[tuple[bytes, bytes]], scope: Scope) -> HeaderList:
        """Return an answer's headers with those that protect; a stricter policy of its own stays.

        Parameters
        ----------
        given : iterable of (bytes, bytes)
            Of the application.
        scope : Scope
            Of the request.
        """
        tls = scope.get("scheme") in ("https", "wss")
        ours = [*self._common, *(self._tls if tls else ())]
        names = {name for name, _ in ours} | {b"server"}
        kept = [(name.lower(), value) for name, value in given if name.lower() not in names]
        there = {name for name, _ in kept}
        if POLICY not in there:
            ours.append((POLICY, self.policy(scope["path"]).encode()))
        if b"access-control-allow-origin" not in there:
            ours += self._shared(header(scope, b"origin"))
        if tls:
            kept = [(n, v + b"; Secure" if n == b"set-cookie" else v) for n, v in kept]
        return [*kept, *ours]

    def _shared(self, origin: str) -> HeaderList:
        if origin not in self._origins:
            return []
        return _encoded(
            {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "vary": "Origin",
            }
        )


def _framing(ancestors: Sequence[str]) -> dict[str, str]:
    """Return what says the same to browsers that are too old for frame-ancestors."""
    said = {"'none'": "DENY", "'self'": "SAMEORIGIN"}.get(" ".join(ancestors))
    return {} if said is None else {"x-frame-options": said}


def _encoded(headers: Mapping[str, str]) -> HeaderList:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]

"""What answers tell browsers, for the safety of who sits before one."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from p06bs.config.base import Section

_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_KEYWORD = re.compile(
    r"'(none|self|unsafe-inline|unsafe-eval|wasm-unsafe-eval|strict-dynamic|report-sample"
    r"|sha(256|384|512)-[\w+/-]+=*)'"
)
_PLACE = re.compile(
    r"\*|[a-z][a-z0-9+.-]*:|([a-z]+://)?(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*(:([0-9]+|\*))?(/[^\s;,']*)?",
    re.IGNORECASE,
)
_BARE = re.compile(r"none|self|unsafe-.*|wasm-.*|strict-dynamic|report-sample|(nonce|sha\d+)-.*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_OWN = re.compile(
    r"connection|content-.*|access-control-.*|cookie|date|etag|location|retry-after|server"
    r"|set-cookie|transfer-encoding|vary|www-authenticate|x-content-type-options|x-frame-options"
    r"|referrer-policy|cross-origin-(opener|resource)-policy|strict-transport-security"
)


def _origin(origin: str) -> str:
    """Return an origin as browsers send it."""
    if origin == "*":
        raise ValueError("'*' would let every page of the web in; name the pages' origins")
    found = _ORIGIN.fullmatch(origin.lower())
    if not found:
        raise ValueError(
            f"{origin!r} is no origin: write https://HOST or https://HOST:PORT, without a path"
        )
    default = {"http": ":80", "https": ":443"}[found[1]]
    return origin.lower().removesuffix(default)


def _source(source: str) -> str:
    """Accept a source of a Content-Security-Policy, which would end at a semicolon."""
    if _BARE.fullmatch(source):
        raise ValueError(f"write \"'{source}'\", with quotes of its own")
    if not (_KEYWORD.fullmatch(source) or _PLACE.fullmatch(source)):
        raise ValueError(
            f"{source!r} is no source: write \"'self'\", \"'none'\", data:, https://HOST"
        )
    return source


def _sources(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sources of a directive; nothing is 'none'."""
    if "'none'" in sources and len(sources) > 1:
        raise ValueError("\"'none'\" stands alone")
    return sources or ("'none'",)


def _value(value: str) -> str:
    """Accept what may stand in a header."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{value!r} has characters that no header has")
    return value


def _name(name: str) -> str:
    """Accept names of headers that are not ours to set."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if _OWN.fullmatch(name.lower()):
        raise ValueError(f"{name} is set by the server, some by a field of [server.headers]")
    return name


Origin = Annotated[str, AfterValidator(_origin)]
Sources = Annotated[
    tuple[Annotated[str, AfterValidator(_source)], ...],
    AfterValidator(_sources),
]


class SecurityPolicy(Section):
    """From where pages may load what, and who may frame them: Content-Security-Policy.

    A directive that is given replaces its default; the defaults are what Tiled's UI needs.
    """

    default_src: Sources = Field(("'self'",), description="what no other directive is about")
    script_src: Sources = Field(("'self'",), description="scripts")
    style_src: Sources = Field(
        ("'self'", "'unsafe-inline'"), description="styles; the UI sets some from scripts"
    )
    img_src: Sources = Field(
        ("'self'", "data:", "blob:"), description="pictures; the UI makes some from what it fetched"
    )
    font_src: Sources = Field(("'self'", "data:"), description="fonts")
    connect_src: Sources = Field(("'self'",), description="what scripts may ask")
    worker_src: Sources = Field(("'self'", "blob:"), description="workers")
    object_src: Sources = Field(("'none'",), description="plug-ins")
    base_uri: Sources = Field(("'self'",), description="base of relative links")
    form_action: Sources = Field(("'self'",), description="where forms are sent")
    frame_ancestors: Sources = Field(
        ("'none'",), description="pages that may show ours in a frame, like https://portal.example"
    )


class Headers(Section):
    """Headers of all answers, by which browsers protect their user."""

    content_security_policy: SecurityPolicy = Field(
        default_factory=SecurityPolicy, description="from where pages may load what"
    )
    referrer_policy: Literal[
        "no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin"
    ] = Field("no-referrer", description="what other sites learn of our URLs")
    cross_origin_opener_policy: Literal[
        "same-origin", "same-origin-allow-popups", "unsafe-none"
    ] = Field("same-origin", description="whether pages that open ours keep a hold on them")
    cross_origin_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = Field(
        "same-origin", description="which pages may show our pictures without asking (CORS)"
    )
    strict_transport_security: int = Field(
        31_536_000,
        ge=0,
        description="seconds for which browsers insist on TLS, said over TLS; 0: not said",
    )
    more: dict[Annotated[str, AfterValidator(_name)], Annotated[str, AfterValidator(_value)]] = (
        Field(default_factory=dict, description="further headers, like Permissions-Policy")
    )

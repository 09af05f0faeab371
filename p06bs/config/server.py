"""The server's part of a configuration: sink, offline DB, who may log in, who may see what."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from p06bs.config.base import Bytes, Section
from p06bs.config.headers import Headers, Origin


def _database(uri: str) -> str:
    """Accept SQLAlchemy's names of the two databases that are tested."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("sqlite", "postgresql") or not rest:
        begins = f", and begins with {scheme}://" if separator else ""  # a password may follow
        raise ValueError(f"is neither sqlite:///PATH nor postgresql://USER@HOST/NAME{begins}")
    return uri


DatabaseUri = Annotated[str, AfterValidator(_database)]


class Archive(Section):
    """The offline DB: a Tiled catalog of all runs, ingested from the logs."""

    database: DatabaseUri = Field(
        "sqlite:///var/archive/catalog.db",
        description="sqlite:///PATH or postgresql://USER@HOST/NAME",
    )
    storage: Path = Field(
        Path("var/archive/runs"), description="directory of the runs' documents and columns"
    )


class Pam(Section):
    """Password login by PAM, for small sites."""

    service: str = Field("login", description="PAM service")


class Oidc(Section):
    """Login by OpenID Connect; DESY uses Keycloak."""

    well_known_uri: str = Field(description="https://.../.well-known/openid-configuration")
    client_id: str
    client_secret_file: Path = Field(description="file with the client secret, mode 0600")
    audience: str = Field(description="audience that tokens must name")
    user_claim: str = Field(
        "preferred_username", description="claim that holds the system user's name"
    )


class Authentication(Section):
    """Users and their tokens. Without this section there is one user, who has the API key."""

    database: DatabaseUri = Field(
        "sqlite:///var/tokens.db", description="where principals and hashed tokens are kept"
    )
    secret_key_file: Path = Field(
        Path("var/secret-key"),
        description="signs the sessions; made with mode 0600 if missing",
    )
    pam: Pam | None = Field(None, description="password login by PAM")
    oidc: Oidc | None = Field(None, description="login by OpenID Connect")
    admins: tuple[str, ...] = Field((), description="users who may administer others' tokens")
    failed_logins_per_minute: int = Field(
        10, ge=1, description="failed logins per user and per address, then 429"
    )


class Access(Section):
    """Who may see a run: whoever may read its beamtime folder."""

    roots: tuple[Path, ...] = Field((), description="folders outside of them are denied to all")
    rights: Literal["kernel", "mode-bits"] = Field(
        "kernel",
        description='"kernel": asked as the user, needs root; "mode-bits": mode bits and POSIX '
        "ACLs, evaluated in the server",
    )
    seconds: float = Field(
        10.0, gt=0, description="time for which an answer counts; revoked rights last no longer"
    )


class Limits(Section):
    """What one request may cost."""

    request: Bytes = Field(64_000_000, description="bytes of a request's body")
    request_seconds: float = Field(120.0, gt=0, description="seconds for a body to come")
    upload: Bytes = Field(4_000_000_000, description="bytes of a derived run that is stored")
    response: Bytes = Field(
        300_000_000,
        description="bytes that one request may read; stock clients ask for up to 100 MiB at once",
    )
    sockets: int = Field(64, ge=1, description="WebSockets of a user, and of an address")


class Server(Section):
    """The Tiled server."""

    runs_on: str = Field("", description="host on which `p06bs up` starts it, and its ingestion")
    host: str = Field("127.0.0.1", description="address to listen on; loopback only")
    port: int = Field(8000, ge=0, le=65535)
    budget: Bytes | None = Field(
        None,
        description="bytes of memory for the newest runs; an eighth of the machine's if absent",
    )
    api_key_file: Path = Field(
        Path("var/api-key"), description="file with the API key; made with mode 0600 if missing"
    )
    archive: Archive | None = Field(None, description="serve and fill an offline DB")
    authentication: Authentication | None = Field(
        None, description="users with tokens of their own; one user with the API key if absent"
    )
    access: Access | None = Field(
        None, description="who may see what; needed where there are several users"
    )
    assets: tuple[Path, ...] = Field(
        (),
        description="directories under which detector files are served, beside a run's own "
        "beamtime folder; if empty, a single user reads all",
    )
    limits: Limits = Field(default_factory=Limits)
    behind_proxy: bool = Field(
        False, description="a reverse proxy stands before it and sets X-Forwarded-*"
    )
    allow_origins: tuple[Origin, ...] = Field(
        (),
        description="origins of other web pages that may use it (CORS), like https://p06.example",
    )
    headers: Headers = Field(default_factory=Headers, description="what answers tell browsers")
    metrics: bool = Field(True, description="Prometheus metrics at /api/v1/metrics")

    @model_validator(mode="after")
    def _several_users_need_rights(self) -> "Server":
        if self.authentication is not None and self.access is None:
            raise ValueError(
                "[server.authentication] needs [server.access] with roots: several users may not "
                "see each other's runs by default"
            )
        return self

"""Who may log in, and how: the configuration as Tiled's authentication.

Without users there is one key. With users there are Tiled's sessions (after a
login by PAM or OpenID Connect) and API keys, in a database of their own.
Anonymous sees nothing.
"""

import base64
import logging
import pwd
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import httpx
import jwt
from starlette.requests import Request
from tiled.authenticators import OIDCAuthenticator
from tiled.config import Authentication as TiledAuthentication
from tiled.config import AuthenticationProviderSpec, Database
from tiled.server.protocols import InternalAuthenticator, UserSessionState
from tiled.server.utils import get_current_url

from p06bs.config.server import Authentication, Oidc, Pam
from p06bs.server import sessions
from p06bs.server.login import principals
from p06bs.server.login.principals import TOKEN
from p06bs.server.login.private import make_secret, read_secret
from p06bs.server.login.terms import is_user_name

logger = logging.getLogger(__name__)

ACCESS_TOKEN = timedelta(minutes=15)
"""Life of an access token, which is not looked up: a revoked session lasts no longer."""

REFRESH_TOKEN = timedelta(days=7)
SESSION = timedelta(days=30)

LOGINS_AT_ONCE = 4
"""PAM delays its answer to a wrong password; more logins than this wait for each other."""

PROVIDER_SECONDS = 10.0

PAM_LIBRARY = "pamela"
"""Not installed with the server: only some log in by PAM."""

SIGNATURES = frozenset(
    f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)
) | {"EdDSA"}
"""Of keys that only the provider has: no shared secrets, and never "none"."""


@dataclass(frozen=True, slots=True)
class Door:
    """What Tiled's `build_app` takes for authentication.

    Attributes
    ----------
    authentication : tiled.config.Authentication
    server_settings : dict
        To be merged into the others.
    """

    authentication: TiledAuthentication
    server_settings: dict[str, Any]


def single_user(api_key: str) -> Door:
    """Return the authentication of a laptop: whoever has the key is the one user.

    Raises
    ------
    ValueError
        If the key is empty or has other characters than letters and digits.
    """
    if not (api_key.isascii() and api_key.isalnum()):
        raise ValueError("an API key consists of letters and digits, and of some")
    return Door(TiledAuthentication(single_user_api_key=api_key, allow_anonymous_access=False), {})


def several_users(config: Authentication) -> Door:
    """Return the authentication of a beamline; prepares the database of principals.

    Runs event loops of its own: to be called before the server's runs.

    Raises
    ------
    principals.DatabaseError
        If the database cannot be used.
    PermissionError, ValueError, OSError
        If a file with a secret is missing, empty, or others may read it.
    ModuleNotFoundError
        If PAM is configured and pamela is not installed.
    """
    secret = make_secret(config.secret_key_file, "the key that signs sessions")
    specs = []
    if config.pam is not None:
        specs.append(_spec("pam", SystemPam, {"config": config.pam}))
    if config.oidc is not None:
        specs.append(_spec("oidc", SystemOidc, {"config": config.oidc}))
    if not specs:
        specs.append(_spec(TOKEN, TokensOnly, {}))
    authentication = TiledAuthentication(
        providers=specs,
        secret_keys=[secret],
        allow_anonymous_access=False,
        access_token_max_age=ACCESS_TOKEN,
        refresh_token_max_age=REFRESH_TOKEN,
        session_max_age=SESSION,
    )
    principals.prepare(config.database, providers_of(config), config.admins)
    return Door(
        authentication, {"database": Database(uri=config.database, init_if_not_exists=False)}
    )


def providers_of(config: Authentication) -> tuple[str, ...]:
    """Return the names of what users log in by, as they stand in URLs and identities."""
    there = {"pam": config.pam, "oidc": config.oidc}
    return tuple(name for name, section in there.items() if section is not None) or (TOKEN,)


class TokensOnly(InternalAuthenticator):
    """Let nobody log in: tokens come from the server's host."""

    confirmation_message = "Logged in."

    async def authenticate(self, username: str, password: str) -> UserSessionState | None:
        """Return None."""
        return None


class SystemPam(InternalAuthenticator):
    """Log in with the password of an account of this system.

    Raises
    ------
    ModuleNotFoundError
        If pamela is not installed.
    """

    confirmation_message = "Logged in as {id}."

    def __init__(self, config: Pam) -> None:
        try:
            import pamela
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'password login by PAM needs pamela: pip install "p06bs[pam]"', name=PAM_LIBRARY
            ) from error
        self._pamela = pamela
        self._service = config.service
        self._logins = anyio.CapacityLimiter(LOGINS_AT_ONCE)

    async def authenticate(self, username: str, password: str) -> UserSessionState | None:
        """Return the account's name, or None where name or password are wrong."""
        # A NUL would end the name for PAM, which is C, and not for us.
        if not is_user_name(username) or not password or "\0" in password:
            return None
        name = await anyio.to_thread.run_sync(
            self._account, username, password, limiter=self._logins
        )
        return None if name is None else UserSessionState(name, sessions.named())

    def _account(self, username: str, password: str) -> str | None:
        try:
            self._pamela.authenticate(username, password, service=self._service)
            account = pwd.getpwnam(username)
        except (self._pamela.PAMError, KeyError) as error:
            logger.info("login of %s by PAM failed: %s", username, error)
            return None
        # Some directories accept a name in another case than the account's.
        return account.pw_name if account.pw_uid and is_user_name(account.pw_name) else None


class SystemOidc(OIDCAuthenticator):
    """Log in at an OpenID Connect provider that knows the system's users."""

    extra_scopes = ("profile",)
    """Where a browser asks, which is where the user's name comes with."""

    def __init__(self, config: Oidc) -> None:
        super().__init__(
            audience=config.audience,
            client_id=config.client_id,
            client_secret=read_secret(config.client_secret_file, "the client secret of OIDC"),
            well_known_uri=config.well_known_uri,
            confirmation_message="Logged in as {id}.",
            redirect_on_success="/ui/",  # Tiled warns without; our route stands before its own
            user_id_claim=config.user_claim,
        )

    async def authenticate(self, request: Request) -> UserSessionState | None:
        """Return the name of the system's user, or None with the reason in the log.

        Raises
        ------
        httpx.HTTPError
            If the provider does not answer.
        """
        code = request.query_params.get("code")
        if not code:
            return self._refuse("the provider sent no code")
        # What the provider says is fetched once, which blocks.
        endpoint = await anyio.to_thread.run_sync(lambda: self.token_endpoint)
        async with httpx.AsyncClient(timeout=PROVIDER_SECONDS) as client:
            answer = await client.post(
                endpoint,
                data={
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": get_current_url(request),
                },
                auth=(self._client_id, self._client_secret.get_secret_value()),
            )
        if answer.is_error:
            return self._refuse(f"the provider answered {answer.status_code} to the code")
        try:
            tokens = answer.json()
            claims = await anyio.to_thread.run_sync(
                self.decode_token, tokens["id_token"], tokens.get("access_token")
            )
        except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            return self._refuse(f"{type(error).__name__}: {error}")
        name = claims.get(self.user_id_claim)
        if not is_user_name(name):
            return self._refuse(f"{self.user_id_claim} {name!r} is no name of a system user")
        return UserSessionState(name, sessions.named())

    def decode_token(self, id_token: str, access_token: str | None = None) -> dict[str, Any]:
        """Return the claims of a token that the provider has signed for us and that is valid.

        Logins are few: the provider's keys are fetched each time, so that a new one counts.

        Raises
        ------
        jwt.PyJWTError
            If it is none.
        """
        keys = jwt.PyJWKClient(self.jwks_uri, cache_jwk_set=False, timeout=PROVIDER_SECONDS)
        if "kid" in jwt.get_unverified_header(id_token):
            key = keys.get_signing_key_from_jwt(id_token)
        else:  # which is allowed where there is one key only
            (key, *others) = keys.get_signing_keys()
            if others:
                raise jwt.InvalidKeyError("the token does not say which key it is signed with")
        signed = jwt.decode_complete(
            id_token,
            key=key,
            algorithms=[a for a in self.id_token_signing_alg_values_supported if a in SIGNATURES],
            audience=self._audience,
            issuer=self.issuer,
            # The provider's clock may be a little ahead.
            options={"require": ["exp", "iss", "aud"], "verify_iat": False},
        )
        claims: dict[str, Any] = signed["payload"]
        if "at_hash" in claims and not _is_hash(claims["at_hash"], access_token, signed["header"]):
            raise jwt.InvalidTokenError("at_hash does not match the access token")
        return claims

    @staticmethod
    def _refuse(reason: str) -> None:
        logger.warning("login by OIDC refused: %s", reason)


def _is_hash(at_hash: object, access_token: str | None, header: dict[str, Any]) -> bool:
    """Return whether an ID token was issued together with this access token."""
    if not access_token:
        return False
    digest = jwt.get_algorithm_by_name(header["alg"]).compute_hash_digest(access_token.encode())
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    return at_hash == half.decode()


def _spec(provider: str, authenticator: type, args: dict[str, Any]) -> AuthenticationProviderSpec:
    # Made without validation, which would take the class for the name of one.
    return AuthenticationProviderSpec.model_construct(
        provider=provider, authenticator=authenticator, args=args
    )

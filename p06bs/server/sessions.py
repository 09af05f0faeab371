"""Names of sessions: given at the login, carried by all access tokens of a session."""

import secrets

import jwt

NAME = "session"


def named() -> dict[str, str]:
    """Return the state of a new session: its name, as long as those of tokens."""
    return {NAME: secrets.token_hex(4)}


def name_of(access_token: str) -> str:
    """Return the name of an access token's session, empty if it has none.

    Its signature is for the application to verify, which refuses what is forged.
    """
    try:
        state = jwt.decode(access_token, options={"verify_signature": False}).get("state")
    except jwt.PyJWTError:
        return ""
    name = state.get(NAME) if isinstance(state, dict) else None
    return name if isinstance(name, str) else ""

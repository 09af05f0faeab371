"""Login at an OpenID Connect provider in a browser: it begins and ends in Tiled's UI.

Tiled's own routes end at a page of JSON, or put the tokens into the URL of a page, which is
any that a link to them names. Here they are in no URL: the last page puts them where the UI
keeps them. What comes back from the provider must belong to a login that this browser has
begun, so that nobody can be logged in as somebody else by a link.
"""

import base64
import hashlib
import html
import json
import secrets
from string import Template
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from tiled.server.authentication import create_session, create_tokens_from_session
from tiled.server.connection_pool import get_database_session_factory
from tiled.server.settings import Settings, get_settings
from tiled.server.utils import get_base_url

from p06bs.server.login.authentication import Door, SystemOidc

PROVIDER = "oidc"
PATH = f"/auth/provider/{PROVIDER}"
COOKIE = "p06bs_login"

LOGIN_SECONDS = 600
"""Time that a login may take."""

UI = "/ui/"

# The names are those of Tiled 0.2.20's UI; a test logs in with a browser.
SCRIPT = f"""
const session = JSON.parse(document.getElementById("session").textContent);
localStorage.setItem("tiled_access_token", session.access_token);
localStorage.setItem("tiled_refresh_token", session.refresh_token);
localStorage.setItem("tiled_identity", JSON.stringify(session.identity));
location.replace("{UI}");
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>p06bs: login</title></head>
<body>
<p>$said</p>
<p><a href="$link">$next</a></p>
$more
</body>
</html>
""")


def install(app: FastAPI, door: Door) -> None:
    """Let logins in a browser begin and end here, if users log in at a provider."""
    oidc = door.authentication.authenticators.get(PROVIDER)
    if oidc is None:
        return
    before = list(app.router.routes)
    app.router.add_api_route(f"/api/v1{PATH}/authorize", _begin(oidc), include_in_schema=False)
    app.router.add_api_route(f"/api/v1{PATH}/code", _end(oidc), include_in_schema=False)
    ours = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = [*ours, *before]


def _begin(oidc: SystemOidc) -> Any:
    async def begin(request: Request) -> Response:
        """Send the browser to the provider."""
        state = secrets.token_urlsafe(32)
        # What the provider says of itself is fetched once, which blocks.
        endpoint = await to_thread.run_sync(lambda: oidc.authorization_endpoint)
        asked = {
            "client_id": oidc.client_id,
            "response_type": "code",
            "scope": " ".join(("openid", *oidc.extra_scopes)),
            "redirect_uri": f"{get_base_url(request)}{PATH}/code",
            # Computers at a beamline are shared.
            "prompt": "login",
            "state": state,
        }
        answer = RedirectResponse(str(endpoint.copy_merge_params(asked)), 302)
        answer.set_cookie(
            COOKIE, state, LOGIN_SECONDS, path=f"/api/v1{PATH}", httponly=True, samesite="lax"
        )
        return answer

    return begin


def _end(oidc: SystemOidc) -> Any:
    async def end(
        request: Request,
        settings: Annotated[Settings, Depends(get_settings)],
        db_factory: Annotated[Any, Depends(get_database_session_factory)],
    ) -> Response:
        """Make a session of what the provider sent, and hand it to the UI."""
        if "error" in request.query_params:
            return _refusal("The provider refused the login.")
        begun, state = request.cookies.get(COOKIE, ""), request.query_params.get("state", "")
        if not begun or not secrets.compare_digest(begun.encode(), state.encode()):
            minutes = LOGIN_SECONDS // 60
            return _refusal(
                f"This login did not begin in this browser, or took more than {minutes} minutes."
            )
        user = await oidc.authenticate(request)
        if user is None:
            answer = _refusal("The login was refused; the server's log says why.")
        else:
            async with db_factory() as db:
                session = await create_session(settings, db, PROVIDER, user.user_name, user.state)
                tokens = await create_tokens_from_session(settings, db, session, PROVIDER)
            answer = _handed_over(tokens)
        answer.delete_cookie(COOKIE, path=f"/api/v1{PATH}", httponly=True, samesite="lax")
        return answer

    return end


def _handed_over(tokens: dict[str, Any]) -> Response:
    shown = {name: tokens[name] for name in ("access_token", "refresh_token", "identity")}
    data = json.dumps(shown).replace("<", "\\u003c")
    hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    page = PAGE.substitute(
        said=f"Logged in as {html.escape(tokens['identity']['id'])}.",
        link=UI,
        next="Go on (this needs JavaScript)",
        more=f'<script type="application/json" id="session">{data}</script>\n'
        f"<script>{SCRIPT}</script>",
    )
    return _page(page, 200, f"script-src 'sha256-{hash}'")


def _refusal(said: str) -> Response:
    page = PAGE.substitute(said=said, link=f"{UI}login", next="Log in", more="")
    return _page(page, 401, "script-src 'none'")


def _page(content: str, status: int, scripts: str) -> Response:
    policy = f"default-src 'none'; {scripts}; base-uri 'none'; form-action 'none'"
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
    }
    return HTMLResponse(content, status, headers)

"""Logins in Tiled's own UI, in a headless Chromium: at a provider, and with a password."""

import json

import httpx
import pytest

from p06bs.config.server import Oidc, Pam
from tests.browsers import chromium, shown, until, violations
from tests.doors import Gated
from tests.identity_provider import AUDIENCE
from tests.live_server import serving
from tests.test_authentication import (
    PASSWORD,
    SERVICE,
    account,  # noqa: F401
    configuration,
)

RUN = "/ui/browse/live/run1"


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "chromium") as driver:
        yield driver


def press(browser, text):
    shown(browser, "button, a", lambda e: e.text.lower() == text).click()


def stored(browser, name):
    return browser.execute_script("return localStorage.getItem(arguments[0])", name)


def sees_the_run(browser, url):
    """The UI shows metadata that only those see who have logged in."""
    browser.get(url + RUN)
    shown(browser, "body", lambda e: "secretsample" in e.text or "primary" in e.text.split())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the provider's own
def test_a_user_logs_in_at_a_provider_and_is_in_the_ui(tmp_path, browser):
    mock = pytest.importorskip("oidc_provider_mock")
    secret = tmp_path / "client-secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    with mock.run_server_in_thread() as provider:
        issuer = f"http://localhost:{provider.server_port}"
        config = configuration(
            tmp_path,
            oidc=Oidc(
                well_known_uri=f"{issuer}/.well-known/openid-configuration", client_id=AUDIENCE,
                client_secret_file=secret, audience=AUDIENCE, user_claim="sub",
            ),
        )  # fmt: skip
        with serving(Gated(config).gate) as url:
            browser.get(f"{url}/ui/login")
            press(browser, "log in with oidc")
            shown(browser, "input[name=sub]").send_keys("alice")
            press(browser, "authorize")
            until(browser, lambda: browser.current_url.startswith(f"{url}/ui/browse"))
            shown(browser, "button", lambda e: e.text == "alice")
            assert violations(browser) == []
            sees_the_run(browser, url)
            # No token has been in a URL, and "back" leads to none.
            urls = browser.execute_script("return performance.getEntries().map(e => e.name)")
            assert not [one for one in urls if "token" in one]
            access = {"Authorization": f"Bearer {stored(browser, 'tiled_access_token')}"}
            me = httpx.get(f"{url}/api/v1/auth/whoami", headers=access).json()
            assert json.loads(stored(browser, "tiled_identity")) == {
                "id": me["identities"][0]["id"], "provider": "oidc",
            }  # fmt: skip
            refresh = stored(browser, "tiled_refresh_token")
            press(browser, "alice")
            shown(browser, "[role=menuitem]", lambda e: e.text == "Log out").click()
            until(browser, lambda: stored(browser, "tiled_access_token") is None)
            again = httpx.post(
                f"{url}/api/v1/auth/session/refresh", json={"refresh_token": refresh}
            )
            assert again.status_code == 401
            # Who denies is told so, and where to begin again.
            browser.get(f"{url}/ui/login")
            press(browser, "log in with oidc")
            press(browser, "deny")
            assert "refused" in shown(browser, "p", lambda e: e.text).text
            press(browser, "log in")
            until(browser, lambda: browser.current_url == f"{url}/ui/login")


def test_a_user_logs_in_with_a_password_in_the_ui(tmp_path, browser, account):  # noqa: F811
    config = configuration(tmp_path, pam=Pam(service=SERVICE))
    with serving(Gated(config).gate) as url:
        browser.get(f"{url}/ui/login")
        name, password = (shown(browser, f"input[type={kind}]") for kind in ("text", "password"))
        name.send_keys(account)
        password.send_keys(PASSWORD)
        press(browser, "log in")
        shown(browser, "button", lambda e: e.text == account)
        sees_the_run(browser, url)
        assert violations(browser) == []

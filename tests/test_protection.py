"""Security headers and CORS by configuration: what is said, and what a browser makes of it."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p06bs import config
from p06bs.config import ConfigurationError
from p06bs.config.headers import Headers
from p06bs.server.gate.gate import Guard
from tests.browsers import chromium, shown, until, violations
from tests.doors import KEY, Gated
from tests.live_server import serving
from tests.test_config import load

HEADERS = {"Authorization": f"Apikey {KEY}"}
DATA = "/api/v1/array/full/live/run1/primary/Fe"
PORTAL = "https://portal.example"


def loaded(tmp_path, text) -> config.Server:
    server = load(tmp_path, text).server
    assert server is not None
    return server


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('allow_origins = ["*"]', "name the pages' origins"),
        ('allow_origins = ["https://p06.example/"]', r"allow_origins\.0: .*without a path"),
        ('allow_origins = ["p06.example"]', "is no origin: write https://HOST"),
        ('allow_origins = ["null"]', "is no origin"),
        ("headers.referrer_policy = 'unsafe-url'", r"headers\.referrer_policy: .*'no-referrer'"),
        ("headers.strict_transport_security = -1", "greater than or equal to 0"),
        ("headers.frame_options = 'DENY'", r"headers\.frame_options: Extra"),
        ("headers.more = {'X Y' = '1'}", "is no name of a header"),
        ("headers.more = {'Set-Cookie' = 'a=b'}", "Set-Cookie is set by the server"),
        ("headers.more = {'X-A' = \"b\\r\\nX-Evil: 1\"}", "characters that no header has"),
        ("headers.content_security_policy.frame_src = ['*']", "Extra inputs"),
        ("headers.content_security_policy.script_src = ['self']", "with quotes of its own"),
        ("headers.content_security_policy.img_src = ['data:; script-src *']", "is no source"),
        ("headers.content_security_policy.img_src = [\"'none'\", 'data:']", "stands alone"),
        ("headers.content_security_policy.img_src = 'data:'", "valid tuple"),
    ],
)
def test_what_no_browser_would_understand_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match=said):
        load(tmp_path, f"[server]\n{text}\n")


def test_origins_are_compared_as_browsers_send_them(tmp_path):
    text = '[server]\nallow_origins = ["HTTPS://P06.example:443", "http://[::1]:8080"]\n'
    assert loaded(tmp_path, text).allow_origins == ("https://p06.example", "http://[::1]:8080")


def test_the_schema_has_the_defaults():
    schema = config.schema()
    policy = schema["$defs"]["SecurityPolicy"]["properties"]
    assert policy["frame_ancestors"]["default"] == ["'none'"]
    assert all("description" in field for field in policy.values())
    headers = {"content_security_policy": {"img_src": ["data:"]}, "more": {"X-A": "b"}}
    jsonschema.validate({"server": {"headers": headers}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"server": {"headers": {"referrer_policy": "x"}}}, schema)


def test_headers_are_those_of_the_configuration(tmp_path):
    server = loaded(
        tmp_path,
        f"""
        [server.headers]
        referrer_policy = "strict-origin"
        cross_origin_opener_policy = "unsafe-none"
        cross_origin_resource_policy = "same-site"
        strict_transport_security = 60
        more = {{"Permissions-Policy" = "camera=()"}}
        [server.headers.content_security_policy]
        frame_ancestors = ["'self'", "{PORTAL}"]
        object_src = []
        style_src = ["'none'"]
        """,
    )
    gated = Gated(guard=Guard(headers=server.headers, proxy=True))
    with serving(gated.gate) as url, httpx.Client(base_url=url, headers=HEADERS) as http:
        for path in ("/ui/", "/", DATA, "/api/v1/metadata/nothing", "/zarr/v2/x", "/health"):
            answer = http.get(path, headers={"X-Forwarded-Proto": "https"})
            said = answer.headers
            assert said["referrer-policy"] == "strict-origin"
            assert said["cross-origin-opener-policy"] == "unsafe-none"
            assert said["cross-origin-resource-policy"] == "same-site"
            assert said["strict-transport-security"] == "max-age=60"
            assert said["permissions-policy"] == "camera=()"
            assert said["x-content-type-options"] == "nosniff"
            assert "x-frame-options" not in said
            policy = dict(d.split(" ", 1) for d in said["content-security-policy"].split("; "))
            assert policy["frame-ancestors"] == f"'self' {PORTAL}"
            assert policy["object-src"] == "'none'"
            assert policy["script-src"] == "'self'"
            styles = "https://cdn.jsdelivr.net" if path == "/" else "'none'"
            assert policy["style-src"] == styles


def test_no_tls_no_word_of_it(tmp_path):
    server = loaded(tmp_path, "[server.headers]\nstrict_transport_security = 0\n")
    forwarded = {"X-Forwarded-Proto": "https"}
    with serving(Gated(guard=Guard(headers=server.headers, proxy=True)).gate) as url:
        assert "strict-transport-security" not in httpx.get(f"{url}/", headers=forwarded).headers


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_configuration_splits_a_header(name, value):
    with contextlib.suppress(ValidationError):
        headers = Headers(more={name: value}, content_security_policy={"img_src": [value]})
        for text in (name, value):
            assert text.isascii()
            assert not set(text) & set("\r\n\0")
        assert ";" not in headers.content_security_policy.img_src[0]


def test_a_page_of_another_origin_asks_before_it_reads():
    """What browsers send before a request with a header of its own, and what they look at."""
    with serving(Gated(guard=Guard(origins=(PORTAL,), failed_logins=1)).gate) as url:
        ask = {
            "Origin": PORTAL,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,x-tiled-request-id",
        }
        for path in (DATA, "/api/v1/search/live", "/api/v1/"):
            may = httpx.options(url + path, headers=ask)
            assert may.status_code == 200, path
            assert may.headers["access-control-allow-origin"] == PORTAL
            assert "GET" in may.headers["access-control-allow-methods"]
            allowed = may.headers["access-control-allow-headers"].lower()
            assert "authorization" in allowed
            assert int(may.headers["access-control-max-age"]) > 0
            assert "origin" in may.headers["vary"].lower()
        # What is closed stays closed, whoever asks for whom.
        closed = httpx.options(f"{url}/api/v1/asset/bytes/live/run1", headers=ask)
        assert closed.status_code == 403
        write = httpx.options(url + DATA, headers={**ask, "Access-Control-Request-Method": "PUT"})
        assert write.status_code == 200  # a question for Tiled, which asks for a key
        evil = httpx.options(url + DATA, headers={**ask, "Origin": "https://evil.example"})
        assert evil.status_code == 400
        assert "access-control-allow-origin" not in evil.headers
        # Refusals of the gate, too, are for the page to read, once.
        for wrong in ("Apikey one", "Apikey two"):
            answer = httpx.get(url + DATA, headers={"Origin": PORTAL, "Authorization": wrong})
            assert answer.headers.get_list("access-control-allow-origin") == [PORTAL]
        assert answer.status_code == 429
        answer = httpx.get(f"{url}/zarr/v2/x", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


@contextlib.contextmanager
def page(content):
    """Serve an empty page and a given one, in `content`, at an origin of their own."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            body = content.get(self.path, "<p>portal").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FETCH = """
const done = arguments[2];
fetch(arguments[0], {headers: {Authorization: arguments[1]}})
  .then(async (answer) => done([answer.status, (await answer.arrayBuffer()).byteLength]))
  .catch((error) => done([0, String(error)]));
"""


def test_a_browser_reads_and_frames_where_the_configuration_says_so(tmp_path):
    content = {}
    with page(content) as portal, page({}) as stranger, chromium(tmp_path) as browser:
        headers = Headers(content_security_policy={"frame_ancestors": [portal]})
        with serving(Gated(guard=Guard(origins=(portal,), headers=headers)).gate) as url:
            asked = (FETCH, url + DATA, HEADERS["Authorization"])
            content["/frame"] = f'<iframe src="{url}/ui/"></iframe>'
            browser.get(portal)
            assert browser.execute_async_script(*asked) == [200, 96]
            wrong = (FETCH, url + DATA, "Apikey wrong")
            assert browser.execute_async_script(*wrong)[0] == 401
            browser.get(f"{portal}/frame")
            browser.switch_to.frame(shown(browser, "iframe"))
            shown(browser, "#root *")  # the UI runs
            browser.get(stranger)
            assert browser.execute_async_script(*asked)[0] == 0
        with serving(Gated().gate) as url:
            content["/frame"] = f'<iframe src="{url}/ui/"></iframe>'
            browser.get_log("browser")
            browser.get(f"{portal}/frame")
            until(browser, lambda: any("frame-ancestors" in said for said in violations(browser)))


def test_the_reference_lists_each_field_and_default():
    text = (Path(__file__).parents[1] / "docs/reference/configuration.md").read_text()
    section = text.partition("### [server.headers]")[2].partition("### ")[0]
    for name in Headers.model_fields:
        assert f"`{name}`" in section or f"headers.{name}]" in section
    for name, field in type(Headers().content_security_policy).model_fields.items():
        (row,) = [line for line in section.splitlines() if line.startswith("|") and name in line]
        assert json.dumps(list(field.default)) in row

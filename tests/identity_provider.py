"""An OpenID Connect provider on loopback whose tokens are as wrong as a test wants them."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "p06"


class Provider:
    """What it answers: `tokens` by code, signed with `key` unless they bring their own."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = "1"
        self.answers = {}
        self.asked = []
        self.url = ""

    def claims(self, **more):
        """Good claims of alice, and what is different."""
        now = int(time.time())
        return {
            "iss": self.url, "aud": AUDIENCE, "sub": "17", "exp": now + 60, "iat": now,
            "preferred_username": "alice", **more,
        }  # fmt: skip

    def token(self, claims, key=None, kid="1", algorithm="RS256"):
        """A signed token."""
        return jwt.encode(
            claims, self.key if key is None else key, algorithm=algorithm, headers={"kid": kid}
        )

    def code(self, name, id_token, status=200, **more):
        """Let a code stand for a token."""
        self.answers[name] = (status, {"id_token": id_token, "access_token": "at", **more})

    @property
    def keys(self):
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": self.kid, "alg": "RS256", "use": "sig"}]}

    @property
    def discovery(self):
        return {
            "issuer": self.url, "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
            "authorization_endpoint": f"{self.url}/authorize",
            "id_token_signing_alg_values_supported": ["RS256", "HS256"],
        }  # fmt: skip


@contextlib.contextmanager
def identity_provider():
    """Run a provider on a free port."""
    provider = Provider()

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self):
            known = {
                "/keys": provider.keys,
                "/.well-known/openid-configuration": provider.discovery,
            }
            self.answer(200, known[self.path])

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            form = parse_qs(self.rfile.read(length).decode())
            provider.asked.append((dict(self.headers), form))
            self.answer(*provider.answers.get(form["code"][0], (400, {"error": "invalid_grant"})))

        def answer(self, status, content):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

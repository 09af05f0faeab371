"""The page that shows the services live: one document, whose script asks every two seconds."""

import base64
import hashlib

from starlette.responses import HTMLResponse

from p06bs.http_api import SERVICES

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .25em .9em .25em 0;
  border-bottom: 1px solid #ddd; }
td.where { white-space: pre-line; font-family: ui-monospace, monospace; font-size: 12px; }
.bad { color: #b00020; font-weight: 600; }
.good { color: #0a7a2f; }
#said { margin: 1em 0; }
"""
# A key comes by the URL once, as at Tiled's UI, and is then a cookie of this browser's; who
# logged in there has an access token, under a name of Tiled 0.2.20. Without a good key the page
# asks no more: failed logins are counted.
SCRIPT = """
const route = document.body.dataset.route;
const table = document.querySelector("tbody"), said = document.getElementById("said");
history.replaceState(null, "", location.pathname);

function headers() {
  const token = localStorage.getItem("tiled_access_token");
  return token ? {Authorization: `Bearer ${token}`} : {};
}
function cell(row, text, kind) {
  const made = row.insertCell();
  made.textContent = text;
  if (kind) made.className = kind;
}
function show(services) {
  table.replaceChildren();
  for (const one of services) {
    const row = table.insertRow(), well = one.health.healthy;
    row.dataset.service = one.name;
    const places = Object.entries(one.addresses).filter(([what]) => what !== "control");
    cell(row, one.name);
    cell(row, one.kind);
    cell(row, well ? "healthy" : one.health.failed.join(", "), well ? "good" : "bad");
    cell(row, one.host);
    cell(row, one.pid);
    cell(row, places.map(([what, where]) => `${what} ${where}`).join("\\n"), "where");
    cell(row, one.offers.join(", "));
    cell(row, one.runs.map(uid => uid.slice(0, 8)).join(", "));
    cell(row, one.version);
  }
}
function tell(text, kind) {
  said.textContent = text;
  said.className = kind || "";
}
async function refresh() {
  try {
    const answer = await fetch(route, {headers: headers(), cache: "no-store"});
    const content = await answer.json().catch(() => ({}));
    if (answer.ok) {
      show(content.services);
      const sick = content.services.filter(one => !one.health.healthy).length;
      const count = `${content.services.length} services, ${sick} not healthy`;
      tell(content.listed ? `${count}; ${new Date().toLocaleTimeString()}`
        : `No Topology Manager has answered at ${content.topology} yet.`, sick ? "bad" : "");
    } else if (answer.status === 401) {
      tell("This browser has no key that is good here: open /services?api_key=KEY once, "
        + "or log in at /ui/ and reload this page.", "bad");
      return;
    } else if (answer.status === 403) {
      tell("This key may not see the services: that needs the scope metrics.", "bad");
      return;
    } else {
      tell(content.detail || `The server answers ${answer.status}.`, "bad");
    }
  } catch (error) {
    tell(`The server does not answer: ${error.message}`, "bad");
  }
  setTimeout(refresh, 2000);
}
refresh();
"""
CONTENT = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>p06bs: services</title><style>{STYLE}</style></head>
<body data-route="{SERVICES}">
<h1>Services</h1>
<p id="said">Asking …</p>
<table>
<thead><tr><th>name<th>kind<th>health<th>host<th>process<th>addresses<th>pipelines<th>runs<th>version
</tr></thead>
<tbody></tbody>
</table>
<noscript>This page needs JavaScript.</noscript>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; "
        "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


async def services_page() -> HTMLResponse:
    """Show who is there; the page asks with the key that the browser has."""
    return HTMLResponse(CONTENT, headers=HEADERS)

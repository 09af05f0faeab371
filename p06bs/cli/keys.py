"""``p06bs keys``: make, list and revoke the keys of a bus that spans several hosts."""

from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.terminal import AsJson, print_json, remark

KEYS_VARIABLE = "P06BS_KEYS"
KeysDirectory = Annotated[
    Path,
    typer.Option("--keys", envvar=KEYS_VARIABLE, help="the site's directory of keys"),
]
DEFAULT = Path("/etc/p06bs/keys")


def complete_peer(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of peers that may connect."""
    from p06bs.bus import certificates

    try:
        known = certificates.names(ctx.params.get("keys") or DEFAULT)
    except (ValueError, OSError):
        return []
    return [name for name in known if name.startswith(incomplete)]


Peer = Annotated[str, typer.Argument(help="name of the peer", autocompletion=complete_peer)]


def create(keys: KeysDirectory = DEFAULT) -> None:
    """Make the keys of a site: those of the bus, and those with which its services connect."""
    from p06bs.bus import certificates

    certificates.create(keys)
    print(
        f"keys of the bus made in {keys}\n"
        f'  in the configuration of the services: [bus] keys = "{keys}"\n'
        "  to each host with services copy the directory, without issued/ (and again after each\n"
        f"  add and revoke): rsync -a --delete --exclude=issued {keys}/ HOST:{keys}/\n"
        "  for each IPython session, workers on another cluster, and whoever else only connects:\n"
        f"  p06bs keys add NAME --keys {keys}"
    )


def add(
    name: Annotated[str, typer.Argument(help="what to call the peer: a host, a user, a cluster")],
    keys: KeysDirectory = DEFAULT,
) -> None:
    """Make the keys of a peer that only connects; it is let in at once."""
    from p06bs.bus import certificates

    issued = certificates.add(keys, name)
    print(
        f"{name} may connect with the keys in {issued}\n"
        "  move this directory, which nobody else may read, to its host:\n"
        f"  rsync -a --remove-source-files {issued}/ HOST:.p06bs-keys/\n"
        "  and tell it there: export P06BS_KEYS=~/.p06bs-keys"
    )


def list_keys(keys: KeysDirectory = DEFAULT, as_json: AsJson = False) -> None:
    """List who may connect."""
    from p06bs.bus import certificates

    known = certificates.names(keys)
    if as_json:
        public = {
            name: certificates.public_key(keys / certificates.PEERS / f"{name}.key").decode()
            for name in known
        }
        print_json([{"name": name, "public_key": key} for name, key in public.items()])
        return
    for name in known:
        print(name)


def revoke(name: Peer, keys: KeysDirectory = DEFAULT) -> None:
    """Let a peer in no more; its connections end within seconds."""
    from p06bs.bus import certificates

    certificates.revoke(keys, name)
    print(f"revoked {name}")
    remark(f"hosts with a copy of {keys} let it in until the copy is renewed")

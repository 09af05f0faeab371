"""Pictures for DESY's LaVue: what travels, and the socket.

LaVue subscribes to a topic per picture, and to the list of topics. It is another program,
which p06bs never imports.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zmq

from p06bs.bus.closing import Closing
from p06bs.bus.sockets import SocketFile, bind
from p06bs.model.picture import Picture

HIGH_WATER_MARK = 2
"""Pictures that wait for a slow LaVue; later ones are dropped, and the next one is newer."""
LIST_TOPIC = b"datasources"
JSON = b"JSON"
FIRST = "first|"
"""A topic that there never is: LaVue goes on from it to the first of the list."""
SETTINGS = "[Configuration]\nAutoZMQStreamTopics=true\n"
"""With it LaVue offers the topics that it is told of."""


def frame(topic: str, picture: Picture, name: str, topics: Sequence[str]) -> list[bytes]:
    """Return the message of a picture.

    Parameters
    ----------
    topic : str
    picture : Picture
    name : str
        Another one in each message: LaVue passes over a picture whose name it has shown.
    topics : sequence of str
        All that there are.
    """
    horizontal = np.ascontiguousarray(picture.values.T)  # LaVue's first axis runs to the right
    x, y = picture.x, picture.y
    nx, ny = horizontal.shape
    about = {
        "shape": [nx, ny],
        "dtype": horizontal.dtype.name,
        "name": name,
        "datasources": list(topics),
        "axisscales": [x.first, y.first, x.step(nx), y.step(ny)],
        "axislabels": [x.name, y.name, x.unit, y.unit],
    }
    return [topic.encode(), horizontal.tobytes(), json.dumps(about).encode(), JSON]


def listing(topics: Sequence[str]) -> list[bytes]:
    """Return the message of the list of topics."""
    return [LIST_TOPIC, json.dumps({"datasources": list(topics)}).encode(), JSON]


def configure(directory: Path) -> None:
    """Write LaVue's configuration into a directory, if there is none.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    file = directory / "DESY" / "LaVue.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(SETTINGS)


def command(address: str, directory: Path) -> str:
    """Return the command that starts LaVue and connects it; see `configure`.

    It shows what is first in the list, with linear intensities: LaVue's usual square root loses
    negative values.
    """
    place = f"{address.removeprefix('tcp://')}/{FIRST}"
    words = ["lavue", "--configuration-path", str(directory), "-s", "zmq", "-c", place]
    return shlex.join([*words, "-i", "linear", "-x"])


class PictureSocket(Closing):
    """A publisher's socket that LaVue connects to. It says who wants what.

    Parameters
    ----------
    address : str
        tcp, on the loopback interface: LaVue has no keys.

    Raises
    ------
    ValueError
        If the address is none, or beyond this host.
    zmq.ZMQError
        If it is in use.
    """

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.XPUB)
        try:
            self._socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
            self._socket.set(zmq.LINGER, 0)
            self._socket.set(zmq.XPUB_VERBOSE, 1)  # the second one that comes is told of, too
            self.address = bind(self._socket, address)
        except BaseException:
            self._socket.close()
            self._context.term()
            raise
        self._file = SocketFile(self.address)

    def wishes(self, seconds: float) -> list[tuple[bool, bytes]]:
        """Return which beginnings of topics are wanted (True) or no more, waiting for one."""
        found: list[tuple[bool, bytes]] = []
        if self._socket.poll(max(0, int(seconds * 1000) + 1)):
            while self._socket.poll(0):
                said = self._socket.recv()
                if said[:1] in (b"\0", b"\1"):
                    found.append((said[:1] == b"\1", said[1:]))
        return found

    def send(self, message: Sequence[bytes]) -> None:
        """Send to those who want it and keep up."""
        self._socket.send_multipart(message)

    def close(self) -> None:
        """Close; may be called twice."""
        self._socket.close()
        self._context.term()
        self._file.remove()

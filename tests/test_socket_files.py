"""The files of ipc:// addresses: 0MQ leaves them behind, and nobody else may lose theirs."""

import threading

import pytest
import zmq

from p06bs.bus.sockets import SocketFile, bind
from p06bs.bus.topology_manager import TopologyManager
from p06bs.services.proxy import Proxy


def test_a_topology_manager_removes_its_own_only(tmp_path):
    path = tmp_path / "topology"
    older = TopologyManager(f"ipc://{path}")
    newer = TopologyManager(f"ipc://{path}")  # 0MQ lets it take over
    older.close()
    assert path.is_socket()
    newer.close()
    assert not path.exists()
    newer.close()


def test_a_proxy_removes_both(tmp_path):
    proxy = Proxy(f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out")
    assert len(list(tmp_path.iterdir())) == 2
    thread = threading.Thread(target=proxy.start)
    thread.start()
    proxy.stop()
    thread.join()
    assert not list(tmp_path.iterdir())


def test_a_proxy_that_does_not_come_to_be_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=f"there is no directory {tmp_path}/nowhere"):
        Proxy(f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/nowhere/out")
    assert not list(tmp_path.iterdir())


def test_addresses_without_a_file_are_left_alone(tmp_path):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        SocketFile(bind(socket, "tcp://127.0.0.1:*")).remove()
    (tmp_path / "x").touch()
    file = SocketFile(f"ipc://{tmp_path}/gone")
    (tmp_path / "gone").touch()
    file.remove()
    assert (tmp_path / "gone").exists()

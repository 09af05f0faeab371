"""The proxy: bluesky's own, on the loopback, bounded, and with an end."""

import signal
import subprocess
import sys
import threading

import pytest
import zmq
from bluesky.callbacks.zmq import RemoteDispatcher

from p06bs.bus.publish import Publisher
from p06bs.bus.sockets import HIGH_WATER_MARK, MAX_MESSAGE
from p06bs.bus.wire import deserialize
from p06bs.services.proxy import Proxy


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_cleanly(signum):
    command = [sys.executable, "-m", "p06bs.services.proxy"]
    command += ["--in", "tcp://127.0.0.1:*", "--out", "127.0.0.1:*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("proxy ready: in tcp://127.0.0.1:")
    process.send_signal(signum)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5567", "tcp://*:5567", "tcp://192.0.2.7:5567"])
def test_it_refuses_to_bind_beyond_this_host(address):
    with pytest.raises(ValueError, match="beyond this host"):
        Proxy(address, "tcp://127.0.0.1:*")
    command = [sys.executable, "-m", "p06bs.services.proxy", "--in", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_bounds_are_set_before_the_bind():
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    thread = threading.Thread(target=proxy.start)
    try:
        assert proxy._frontend.get(zmq.RCVHWM) == HIGH_WATER_MARK
        assert proxy._backend.get(zmq.SNDHWM) == HIGH_WATER_MARK
        assert proxy._frontend.get(zmq.MAXMSGSIZE) == MAX_MESSAGE
    finally:
        thread.start()
        proxy.stop()
        thread.join()
    assert proxy.closed


def test_a_stock_remote_dispatcher_listens(tmp_path):
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    forwarding = threading.Thread(target=proxy.start)
    forwarding.start()
    received = []
    dispatcher = RemoteDispatcher(
        proxy.out_port.removeprefix("tcp://"), prefix=b"p06", deserializer=deserialize, strict=True
    )
    first, stopped = threading.Event(), threading.Event()

    def note(name, document):
        received.append((name, document))
        first.set()
        if name == "stop":
            stopped.set()

    dispatcher.subscribe(note)

    def listen():
        try:
            dispatcher.start()
        except BaseException as error:  # CancelledError is how it ends
            ended.append(type(error).__name__)

    ended = []
    listening = threading.Thread(target=listen)
    listening.start()
    with Publisher(proxy.in_port, tmp_path, prefix=b"p06") as publisher:
        for number in range(1000):  # the dispatcher hears only what comes after it subscribed
            publisher("start", {"uid": f"probe-{number}"})
            if first.wait(0.01):
                break
        publisher("start", {"uid": "run", "shape": (2, 3)})
        publisher("stop", {"uid": "stop", "run_start": "run"})
        assert stopped.wait(20)
    assert ("start", {"uid": "run", "shape": [2, 3]}) in received
    dispatcher.loop.call_soon_threadsafe(dispatcher._task.cancel)
    listening.join()
    assert ended == ["CancelledError"]
    proxy.stop()
    forwarding.join()

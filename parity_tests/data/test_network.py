"""Reachability: any answer counts, none counts within the time allowed."""

import http.server
import socket
import threading

import pytest

from jaxloss.data import network


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_answers_is_reachable_whatever_it_says(server):
    assert network.is_reachable(server, timeout=30)


def test_a_refused_connection_and_a_bad_address_are_not_reachable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert not network.is_reachable(f"http://127.0.0.1:{port}/")
    assert not network.is_reachable("nonsense")


def test_a_hanging_lookup_does_not_hold_the_program(monkeypatch):
    release = threading.Event()

    def hang(*arguments, **options):
        release.wait()
        raise OSError

    monkeypatch.setattr(network.urllib.request, "urlopen", hang)
    assert not network.is_reachable("http://example.org/", timeout=0.05)
    release.set()

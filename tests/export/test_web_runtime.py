"""onnxruntime-web comes from a file, the cache or a registry, and is what is expected."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kanseg.export.web_runtime import FILE, find_web_runtime, is_intact, registry
from kanseg.utils.errors import InputError
from kanseg.utils.io import user_cache_folder


@pytest.fixture
def server(monkeypatch):
    """A registry that answers every request with b"other", and notes the paths."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"other")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{running.server_port}/npm/")
        yield paths
        running.shutdown()


def test_the_registry_is_that_of_npm(monkeypatch):
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    assert registry() == "https://registry.npmjs.org"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://upper.example/")
    assert registry() == "https://upper.example/"
    monkeypatch.setenv("npm_config_registry", "https://lower.example/")
    assert registry() == "https://lower.example/"


def test_another_content_is_refused_and_not_cached(server):
    lines = []
    with pytest.raises(InputError, match="SHA-512") as caught:
        find_web_runtime(log=lines.append)
    assert "npm pack onnxruntime-web@" in str(caught.value)
    assert server == [f"/npm/onnxruntime-web/-/{FILE}"]
    assert len(lines) == 1
    assert server[0] in lines[0]
    assert not (user_cache_folder("web_runtime") / FILE).exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    cached = user_cache_folder("web_runtime") / FILE
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"damaged")
    with pytest.raises(InputError, match="SHA-512"):
        find_web_runtime(log=lambda _: None)
    assert len(server) == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "file:///etc", "no address"])
def test_without_a_connection_the_message_says_what_to_do(address, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("npm_config_registry", address)
    with pytest.raises(InputError, match="--demo_runtime") as caught:
        find_web_runtime(log=lambda _: None)
    assert address in str(caught.value)
    assert "npm pack onnxruntime-web@" in str(caught.value)


def test_a_file_that_is_missing_or_another_is_refused(tmp_path):
    other = tmp_path / "other.tgz"
    with pytest.raises(InputError, match=r"other\.tgz: no such file.*npm pack"):
        find_web_runtime(other)
    other.write_bytes(b"other")
    with pytest.raises(InputError, match=r"other\.tgz is not onnxruntime-web.*npm pack"):
        find_web_runtime(other)
    assert not is_intact(b"other")

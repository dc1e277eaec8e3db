"""Get onnxruntime-web, which runs ONNX files in a browser: from npm's registry, or from a file."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from urllib.request import Request, urlopen

from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, user_cache_folder
from kanseg.utils.text import one_line

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# Of the tarball, as in `npm view onnxruntime-web@1.30.0 dist.integrity`.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4C"
    "XAfKYQ=="
)
MAX_BYTES = 2**27  # the tarball has 33 MB
TIMEOUT = 60  # seconds without an answer
REGISTRY = "https://registry.npmjs.org"
REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")  # npm reads them too
FILE = f"{PACKAGE}-{VERSION}.tgz"
ADVICE = (
    f"on a machine with npm and a connection run `npm pack {PACKAGE}@{VERSION}`, and give the file"
    f" with --demo_runtime {FILE}"
)
# For one thread on the CPU: a page that is opened from a file cannot share memory with threads.
MEMBERS = {
    "script": "package/dist/ort.wasm.min.js",
    "module": "package/dist/ort-wasm-simd-threaded.mjs",
    "wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}


@dataclass(frozen=True)
class WebRuntime:
    """The files of onnxruntime-web that a page needs.

    Args:
        script: JavaScript that defines `ort`.
        module: JavaScript module that `script` imports.
        wasm: WebAssembly that `module` runs.
        version: of the package.
    """

    script: bytes
    module: bytes
    wasm: bytes
    version: str = VERSION


def find_web_runtime(
    path: str | Path | None = None, *, log: Callable[[str], None] = print
) -> WebRuntime:
    """Read onnxruntime-web from a file, from the cache, or else download it into the cache.

    Args:
        path: the package as `npm pack` writes it; None for the cache, or the registry (that of the
            environment variable npm_config_registry, by default npm's own).
        log: receives a line before a download.

    Raises:
        InputError: no such file, a file that is not this version of the package, or no connection.
    """
    if path is not None:
        path = Path(path)
        if not path.is_file():
            raise InputError(f"--demo_runtime: {path}: no such file; {ADVICE}")
        data = path.read_bytes()
        if not is_intact(data):
            raise InputError(f"--demo_runtime: {path} is not {PACKAGE} {VERSION}; {ADVICE}")
        return unpack(data)
    cached = user_cache_folder("web_runtime") / FILE
    if cached.is_file():
        data = cached.read_bytes()
        if is_intact(data):
            return unpack(data)
    data = download(log)
    with contextlib.suppress(OSError), atomic_write(cached) as temporary:
        temporary.write_bytes(data)  # a cache that cannot be written is no fault
    return unpack(data)


def download(log: Callable[[str], None] = print) -> bytes:
    """Download the tarball from npm's registry, and check it.

    Raises:
        InputError: no connection, or another content than expected.
    """
    url = f"{registry().rstrip('/')}/{PACKAGE}/-/{FILE}"
    log(f"downloading {PACKAGE} {VERSION} (33 MB, once): {url}")
    try:
        if not url.startswith(("https://", "http://")):
            raise ValueError("the address of a registry begins with https:// or http://")
        with urlopen(Request(url), timeout=TIMEOUT) as response:  # noqa: S310 - checked above
            data = response.read(MAX_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"{url} cannot be downloaded: {one_line(error)}; {ADVICE}") from None
    if not is_intact(data):
        raise InputError(
            f"{url} is not the file that this version of kanseg expects (its SHA-512 differs);"
            f" {ADVICE}"
        )
    return data


def registry() -> str:
    """The address of npm's registry."""
    for name in REGISTRY_VARIABLES:
        if os.environ.get(name):
            return os.environ[name]
    return REGISTRY


def is_intact(data: bytes) -> bool:
    """True if the content of a file is that of the package."""
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return f"sha512-{digest}" == INTEGRITY


def unpack(data: bytes) -> WebRuntime:
    """Read the files of the package from its tarball, in one pass, since it holds 145 MB."""
    files, names = {}, {name: key for key, name in MEMBERS.items()}
    with tarfile.open(fileobj=BytesIO(data), mode="r|gz") as archive:
        for member in archive:
            if member.name in names:
                files[names[member.name]] = archive.extractfile(member).read()
            if len(files) == len(MEMBERS):
                break
    return WebRuntime(**files)

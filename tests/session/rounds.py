"""A model with a key behind its public name, on both homes, for whole rounds of the product."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opencode_magic.sandbox.prove import ProofTarget
from opencode_magic.session.session import Session
from opencode_magic.session.start import start
from opencode_magic.settings import load_settings
from tests.sandbox.canary import Canary
from tests.sandbox.homes import _free_port, _wait_listening, stop_local_server
from tests.sandbox.test_credentials import make_token
from tests.scripted import scripted_model
from tests.tls import tls_front

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.local.demo_model import DemoModel
    from opencode_magic.settings import Settings

KEY = "planted-vck-0123456789abcdefghij"
GATEWAY = "ai-gateway.vercel.sh"
MODEL = "vercel/anthropic/claude-sonnet-4.6"


@dataclass
class Round:
    """What a round is made with."""

    settings: Settings
    session: Session
    model: DemoModel
    canary: Canary


@contextlib.contextmanager
def gateway() -> Iterator[tuple[DemoModel, Canary, tuple[str, ...], bytes]]:
    """Give the scripted model behind the gateway's name, a canary, and how to reach both."""
    canary = Canary()
    try:
        with scripted_model(key=KEY) as model:
            port = urlsplit(model.url).port
            assert port is not None
            with tls_front(port) as front:
                folder = Path.cwd()
                authorities = (
                    front.write_ca(folder).read_bytes() + canary.write_ca(folder).read_bytes()
                )
                names = ("example.com", "canary.example")
                upstreams = (front.upstream(GATEWAY), *(canary.upstream(name) for name in names))
                yield model, canary, upstreams, authorities
    finally:
        canary.close()


@contextlib.contextmanager
def local_round() -> Iterator[Round]:
    """Give a round on the local home, with a key."""
    with gateway() as (model, canary, upstreams, authorities):
        settings = _with_key(load_settings())
        path = settings.folder / "authorities.pem"
        path.write_bytes(authorities)
        settings = replace(settings, home="local", upstreams=upstreams, upstream_ca=path)
        yield from _rounds(settings, model, canary)


@contextlib.contextmanager
def cloud_round() -> Iterator[Round]:
    """Give a round on the stand-in for the cloud: other credentials, none of the extras."""
    with gateway() as (model, canary, upstreams, authorities):
        settings = _with_key(load_settings())
        token = make_token(expires_s=4_000_000_000)
        with _cloud(settings.folder, token, upstreams, authorities) as url:
            settings = replace(settings, home="cloud", cloud_url=url, oidc_token=token)
            # The kernel must find the blocked host where the sandbox's firewall would.
            target = ProofTarget("example.com", canary.address)
            yield from _rounds(settings, model, canary, target)


def _with_key(settings: Settings) -> Settings:
    return replace(settings, model=MODEL, keys={"AI_GATEWAY_API_KEY": KEY})


def _rounds(
    settings: Settings, model: DemoModel, canary: Canary, target: ProofTarget | None = None
) -> Iterator[Round]:
    session = Session(starter=functools.partial(start, target=target or ProofTarget()))
    try:
        yield Round(settings, session, model, canary)
    finally:
        session.down(discard=True)
        stop_local_server(settings)


@contextlib.contextmanager
def _cloud(
    folder: Path, token: str, upstreams: tuple[str, ...], authorities: bytes
) -> Iterator[str]:
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    (folder / "authorities.pem").write_bytes(authorities)
    port = _free_port()
    options = ["--runtime-dir", str(folder / "r"), "--state-dir", str(folder / "s")]
    options += ["--tcp", f"127.0.0.1:{port}", "--token-file", str(folder / "token")]
    options += ["--upstream-ca", str(folder / "authorities.pem")]
    options += [word for upstream in upstreams for word in ("--upstream", upstream)]
    process = subprocess.Popen(
        [sys.executable, "-m", "opencode_magic.local", "serve", *options],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        _wait_listening(port, process)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait(timeout=10)

"""`autotl serve`: answer requests with a model."""

import os
import socket
import warnings
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotl.cli.load_model import load_model
from autotl.cli.predict import AbstainAt, Coverage, Device, Model, UnknownAt, wishes_of
from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.ui.output import write_line

__all__ = ["add_commands"]

TOKEN = "AUTOTL_TOKEN"
PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"} | {
    "python_multipart": "python-multipart"
}


def add_commands(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen at; 0.0.0.0 for every network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        bool | None,
        typer.Option(
            "--token/--no-token",
            metavar="",
            help=f"Ask clients for a token, ${TOKEN} or a new one (default: where --host isn't this machine alone).",
        ),
    ] = None,
    allow_host: Annotated[
        list[str], typer.Option(metavar="NAME", help="A name under which clients reach the server. Repeatable.")
    ] = [],  # noqa: B006  # typer reads the default, and nothing changes it
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", metavar="", help="Fetch images from public addresses that clients name.")
    ] = False,
    abstain_at: AbstainAt = None,
    unknown_at: UnknownAt = None,
    coverage: Coverage = None,
    max_size: Annotated[str, typer.Option(metavar="32MB", help="Largest body of a request.")] = "32MB",
    max_pixels: Annotated[
        int, typer.Option(min=1, max=178_956_970, metavar="N", help="Most pixels of an image.")
    ] = 50_000_000,
    max_images: Annotated[int, typer.Option(min=1, max=512, metavar="N", help="Most images in a request.")] = 32,
    device: Device = "auto",
) -> None:
    """Answer HTTP requests with a model: POST /predict and /explain, a page to drop images on, /docs, /healthz,
    /metrics. Images of concurrent requests are answered in batches. Ctrl-C ends it."""
    from autotl.config import find_model, parse_bytes

    folder, wishes = find_model(model), wishes_of(abstain_at, unknown_at, coverage)
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise AutotlError(f"A server needs {', '.join(missing)}. Type: pip install 'autotl[serve]'")
    try:
        max_bytes = parse_bytes(max_size)
    except ValueError:
        raise AutotlError(f"--max-size {max_size} is not a size: write --max-size 32MB") from None
    from autotl.server.run import bind, new_token, run_server, server_url
    from autotl.server.settings import ServerSettings, is_loopback

    asks = not is_loopback(host) if token is None else token
    secret = (os.environ.get(TOKEN) or new_token()) if asks else None
    listening = bind(host, port)  # a port that is taken is an error before torch is imported
    console = Console(stderr=True)
    from autotl.model.device import take_device
    from autotl.model.doubt import Doubts

    with console.status("loading the model"), warnings.catch_warnings():
        loaded = load_model(folder, take_device(device))
        doubts = Doubts(loaded, **wishes) if wishes else None
        from autotl.server.app import ModelServer, create_app

        settings = ServerSettings(
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            max_images=max_images,
            allow_urls=allow_urls,
            hosts=frozenset(name.lower() for name in (*allow_host, host, socket.gethostname())),
            token=secret,
        )
        name = str(loaded.about.get("study", folder.name))
        app = create_app(ModelServer(loaded, name, settings, doubts))
    for note in doubts.notes() if doubts else []:
        console.print(Text(note, "yellow"), soft_wrap=True)

    def ready() -> None:
        url = server_url(listening, secret)
        write_line(escape(f"{url} serves {folder}. Ctrl-C ends it."))
        if not is_loopback(host):
            warning = "Requests are not encrypted: put a proxy with TLS in front where others share the network."
            console.print(Text(warning, "yellow"), soft_wrap=True)

    run_server(app, listening, ready)

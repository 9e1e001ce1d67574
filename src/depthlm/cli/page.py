"""The command that serves the web page: app."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from depthlm.cli.app import app
from depthlm.cli.backends import OPENAI, RivalOptions, ServerOptions, make_backend
from depthlm.cli.helpers import load
from depthlm.cli.options import Answers, BaseUrl, Concurrency, Device, Dtype, Read, Reference, Revision
from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.inference.backend import Backend
    from depthlm.models.loading import LoadedModel


@app.command(name="app")
def app_(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="nano, a model folder, a hub id, or a server's name.")
    ] = "nano",
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, asked about the same points, side by side.")
    ] = None,
    backend: Annotated[Literal["hf", "openai"], typer.Option(help="hf: weights here. openai: a server.")] = "hf",
    base_url: BaseUrl = None,
    card: Annotated[
        str | None, typer.Option(help="Of a server's model: depthlm.json, or a folder with one, that says how to ask.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask in these words, those of prompts.py; default: what depthlm.json says.")
    ] = None,
    concurrency: Concurrency = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for one answer of a server.")] = None,
    retries: Annotated[int | None, typer.Option(help="Tries again of a question a server did not answer.")] = None,
    reference: Reference = None,
    answers: Answers = None,
    read: Read = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 7860,
    max_upload: Annotated[float, typer.Option(help="Megabytes of one uploaded file.")] = 40.0,
    max_megapixels: Annotated[float, typer.Option(help="Millions of pixels of one picture.")] = 64.0,
    max_waiting: Annotated[int, typer.Option(help="Questions of visitors that wait at once.")] = 32,
) -> None:
    """Serve a page on which people click a picture and read metres."""
    import importlib.util

    from depthlm.app.desk import Limits

    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio; pip install 'depthlm[app]'")
    limits = Limits(upload_mb=max_upload, megapixels=max_megapixels, waiting=max_waiting)
    from depthlm.app.models import page_model
    from depthlm.app.server import Address, serve

    server = ServerOptions(base_url=base_url, concurrency=concurrency, timeout=timeout, retries=retries)
    if backend == OPENAI:  # somebody waits for each answer
        server = replace(server, timeout=timeout or 30.0, retries=1 if retries is None else retries)
    models = []
    for name in [model] if against is None else [model, against]:
        # A server is compared with what lies here, or with another of its own models.
        if backend == OPENAI and name == against and (name == "nano" or Path(name).is_dir()):
            answering: LoadedModel | Backend = load(name, device, dtype, revision)
        else:
            answering = make_backend(
                backend, name, card=card, prompt=prompt, reference=reference, read=read, server=server,
                rival=RivalOptions(), out=None, load_options=(device, dtype, revision),
            )  # fmt: skip
        models.append(page_model(name, answering, reference=reference, read=read, answers=answers))
    serve(models, Address(host=host, port=port), limits, lambda url: print(f"page: {url}", flush=True))

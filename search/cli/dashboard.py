"""Optuna Dashboard for this machine only; the server is in `search.cli.local_server`."""

from contextlib import suppress
from typing import Annotated

import typer

from promptgraft.search.cli.options import StorageOption, StudyArgument, WorkdirOption, reported

app = typer.Typer()


@app.command()
@reported
def dashboard(
    study: StudyArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    storage: StorageOption = None,
    workdir: WorkdirOption = None,
) -> None:
    """Serve Optuna Dashboard to this machine only."""
    from optuna.storages import get_storage
    from optuna_dashboard import wsgi

    from promptgraft.search.cli.local_server import HOST, local_server, with_wrapped_lines
    from promptgraft.search.reporting import artifact_store
    from promptgraft.search.storage import StudyReference, open_storage

    reference = StudyReference.resolve(study, storage, workdir)
    reference.load()
    store = artifact_store(reference.folder)
    cached = get_storage(open_storage(reference.storage_url))  # Finished trials are read once, not at each request.
    application = with_wrapped_lines(wsgi(cached, artifact_store=store))
    with local_server(application, port) as server:
        typer.echo(f"Optuna Dashboard: http://{HOST}:{server.server_port}/dashboard (stop with Ctrl-C)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()

"""Shows runs in a browser, while they go on and afterwards: curves, labels, actors, and every recorded episode.

    dopamine show runs/peg_insert
    dopamine show runs/peg_insert runs/peg_sparse               # two runs side by side
    dopamine show runs/peg_insert --write report.html           # one file to mail, no server
    dopamine show runs/peg_insert --host 0.0.0.0 --token-file token --tls-cert cert.pem --tls-key key.pem

Nothing in a run's folder is changed. Prints the address to open; Ctrl-C ends. Episodes are sorted by how far the reward
model's claim is from the truth. The pages need no internet.

To show them to other machines (any --host except loopback), give a token and TLS: --tls-cert FILE --tls-key FILE.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from dopamine_rl.errors import BadInput, require
from dopamine_rl.files import write_text
from experiments.runtime.arguments import OptionalResultPath, option, parse
from experiments.runtime.ending import UsageError, command, interruptible
from experiments.runtime.storage import check_folder

if TYPE_CHECKING:
    from experiments.viewer.pages import Shown

MOST_RUNS = 6
"""As many as there are colours."""


@dataclass(frozen=True)
class Arguments:
    """The runs, and how they are shown."""

    runs: Annotated[Positional[tuple[Path, ...]], option("RUN", "")]
    """Folders of runs, as printed at the end of training; they may still be going on."""
    host: Annotated[str, option("ADDRESS")] = "127.0.0.1"
    """Address to listen on. Any address but loopback needs a token and TLS."""
    port: Annotated[int, option("N")] = 8700
    """Port to listen on; 0 chooses a free one."""
    token_file: Annotated[Path | None, option("FILE", "the environment variable DOPAMINE_TOKEN")] = None
    """File that contains the token which a browser must give once."""
    tls_cert: Annotated[Path | None, option("FILE", "")] = None
    """PEM file with the server's certificate; turns on https."""
    tls_key: Annotated[Path | None, option("FILE", "")] = None
    """PEM file with the private key, if it is not in the certificate's file."""
    insecure: bool = False
    """Allow other machines to connect without TLS."""
    name: Annotated[str | None, option("HOST", "")] = None
    """Another name by which browsers call this machine, as behind a proxy."""
    write: Annotated[OptionalResultPath, option("FILE", "")] = None
    """Write one self-contained HTML file instead of serving."""
    episodes: Annotated[int, option("N")] = 8
    """Episodes of each run in that file."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("port", 0 <= self.port < 1 << 16, "give a port from 0 to 65535"),
            ("episodes", self.episodes >= 0, "give a number of episodes, or 0"),
        )
        if not 1 <= len(self.runs) <= MOST_RUNS:
            raise BadInput("RUN", len(self.runs), f"give 1 to {MOST_RUNS} folders of runs")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Show runs until interrupted, or write the file; Ctrl-C exits with status 0."""
    arguments = parse(Arguments, argv, "dopamine show", __doc__)
    from experiments.viewer.pages import shown_runs
    from experiments.viewer.runs import check_run

    try:
        folders = list(dict.fromkeys(map(check_run, arguments.runs)))
    except BadInput as error:
        raise UsageError(error.field, error.value, error.fix) from None
    if arguments.write is not None:
        print(write_report(shown_runs(folders), arguments.write, arguments.episodes))
        return
    with interruptible("Stopped.", status=0):
        serve(shown_runs(folders), arguments)


def write_report(runs: Sequence[Shown], path: Path, episodes: int) -> Path:
    """Write all runs, and some episodes of each, into one HTML file; returns its path.

    Args:
        episodes: of each run: those of the training whose claim is furthest from the truth.
    """
    from experiments.viewer.episodes import arranged
    from experiments.viewer.pages import Pages, embedded

    if path.is_dir():
        raise BadInput("--write", str(path), "this is a folder: give a file, such as report.html")
    check_folder(path, "--write", inside=path.parent)
    pages, players = Pages(runs, embedded), []
    for run in runs:
        for row in arranged(run.store.rows(), "disagreement", "training")[:episodes]:
            players.append(pages.player(run, run.store.episode(row.name)))
    return write_text(path, pages.report(players))


def serve(runs: Sequence[Shown], arguments: Arguments) -> None:
    """Serve the pages until interrupted."""
    from experiments.viewer.server import make_app
    from reward_service.guards import TOKEN_VARIABLE, IngressConfig, load_token
    from reward_service.web import serve_app

    config = IngressConfig(
        host=arguments.host,
        port=arguments.port,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        insecure=arguments.insecure,
    )
    try:
        token = load_token(arguments.token_file, config.host)
        names = () if arguments.name is None else (arguments.name,)
        server, sockets = serve_app(make_app(runs, config.host, token, names), config, token is not None)
    except BadInput as error:
        raise UsageError(error.field, error.value, error.fix) from None
    os.environ.pop(TOKEN_VARIABLE, None)
    host, port = sockets[0].getsockname()[:2]
    scheme = "http" if config.tls_cert is None else "https"
    print(f"showing {scheme}://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    print("A browser asks for the token once." if token else "Only this machine can connect.", flush=True)
    print("Press Ctrl-C to stop.", flush=True)
    threading.Thread(target=lambda: [run.store.rows() for run in runs], name="index", daemon=True).start()
    server.run(sockets)


if __name__ == "__main__":
    main()

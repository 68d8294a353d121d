"""The verb `dashboard`: watch a dataset in the browser, on loopback unless told otherwise."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from dashboard.report import prices_of
from manifests import cli
from manifests.cli.ranges import NOT_NEGATIVE, Ranges
from manifests.errors import RushesError, UsageError


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Watch a dataset in the browser: shards, clips, captions, drops, trainings. It changes nothing.

    Examples:
      rushes dashboard DATASET --open
      rushes dashboard DATASET --run RUN --cpu-price 0.04 --gpu-price 2.5
      rushes dashboard DATASET --host 0.0.0.0 --name watch.example.org
    """

    ranges: ClassVar[Ranges] = {
        "port": (0, 65535, True),
        "cpu_price": NOT_NEGATIVE,
        "gpu_price": NOT_NEGATIVE,
    }

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    port: int = 8000
    """Port to listen on; 0 for any that is free."""
    host: str = "127.0.0.1"
    """Address to bind to. Elsewhere than on loopback a token is asked for, which is printed once."""
    name: str = ""
    """Host name that browsers use, as watch.example.org, where it is not bound to loopback."""
    open: bool = False
    """Open the browser."""
    run_folders: Annotated[tuple[Path, ...], tyro.conf.arg(name="run", metavar="FOLDER")] = ()
    """Run folders of trainings, besides those in DATASET/training."""
    cpu_price: float = 0.0
    """What an hour of a processor costs, for the page Runs."""
    gpu_price: float = 0.0
    """The same of a GPU."""
    ray: str = ""
    """Address of Ray's own dashboard, to link to."""
    verdicts: Path | None = None
    """File, outside the dataset, for verdicts on captions: with it there is a page to judge them."""
    hide_paths: bool = False
    """Show names of files alone, not where they lie."""

    def run(self) -> int:
        for folder in self.run_folders:
            if not folder.is_dir():
                cli.say(f"dashboard: --run {folder}: no such folder yet; it is shown once it is there")
        listener = listen(self.host, self.port)
        import uvicorn

        from dashboard.app import make_app
        from dashboard.security import Access

        address = ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)
        token = "" if address.is_loopback else secrets.token_urlsafe(32)
        access = Access((self.name, *_own_names(self.host, address.is_loopback)), token)
        with listener:
            app = make_app(
                self.dataset,
                access=access,
                trainings=list(self.run_folders),
                prices=prices_of(self.cpu_price, self.gpu_price),
                ray=self.ray,
                hide_paths=self.hide_paths,
                verdicts=self.verdicts,
            )
            port = listener.getsockname()[1]
            shown = self.name or (socket.gethostname() if address.is_unspecified else self.host)
            shown = f"[{shown}]" if ":" in shown else shown
            url = f"http://{shown}:{port}"
            # not by `say`, which hides what lets one in: here it is told to who started the server
            shown = f"{url}/?token={token}" if token else url
            print(f"dashboard: {shown}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
            if self.open:
                webbrowser.open(f"{url}/?token={token}" if token else url)
            settings = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
            uvicorn.Server(settings).run(sockets=[listener])
        return cli.DONE


def _own_names(host: str, is_loopback: bool) -> tuple[str, ...]:
    """What this machine is called, where others may call it."""
    if is_loopback:
        return ()
    names = {host, socket.gethostname(), socket.getfqdn()}
    with contextlib.suppress(OSError):  # of a machine whose name is in no table
        names |= {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it tells by which address one would go out
        names.add(probe.getsockname()[0])
    return tuple(names - {"0.0.0.0", "::"})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        UsageError: the address is none; the port is no port.
        RushesError: the port is taken, or may not be used.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host {host}", "is not an IP address", "Such as 127.0.0.1 or ::1.") from error
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}", "is not a port", "Ports are from 0 to 65535.")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise RushesError(
            f"--port {port}", f"cannot be used ({cause})", "Give another; 0 picks a free one."
        ) from error

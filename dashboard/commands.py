"""The verb `dashboard`: watch a dataset in the browser, on loopback."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from manifests import cli
from manifests.cli.ranges import Ranges
from manifests.errors import RushesError, UsageError


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a read-only status page over a dataset.

    Example: rushes dashboard DATASET --port 8000
    """

    ranges: ClassVar[Ranges] = {"port": (0, 65535, True)}

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    port: int = 8000
    """Port to listen on; 0 for any that is free."""
    host: str = "127.0.0.1"
    """Address to bind to. The page has no log-in yet, so only loopback addresses are taken."""

    def run(self) -> int:
        listener = listen(self.host, self.port)
        import uvicorn

        from dashboard.app import make_app

        with listener:
            app = make_app(self.dataset)
            port = listener.getsockname()[1]
            shown = f"[{self.host}]" if ":" in self.host else self.host
            cli.say(f"dashboard: http://{shown}:{port}  (Ctrl-C ends it)")
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
        return cli.DONE


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a loopback address.

    Raises:
        UsageError: the address is none, or not of loopback; the port is no port.
        RushesError: the port is taken, or may not be used.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host {host}", "is not an IP address", "Such as 127.0.0.1 or ::1.") from error
    if not address.is_loopback:
        raise UsageError(
            f"--host {host}",
            "would open a page without a log-in to the network",
            "Use an SSH tunnel to loopback.",
        )
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

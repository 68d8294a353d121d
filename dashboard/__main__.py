"""`python -m dashboard serve DATASET`: watch a dataset in the browser, on loopback."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
import uvicorn

from dashboard.app import make_app
from manifests import cli
from manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a read-only status page over a dataset.

    Example: python -m dashboard serve DATASET --port 8000
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    port: int = 8000
    """Port to listen on."""
    host: str = "127.0.0.1"
    """Address to bind to. The page has no log-in yet, so only loopback addresses are taken."""

    def run(self) -> int:
        if self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback:
            raise UsageError(
                f"--host {self.host}",
                "would open a page without a log-in to the network",
                "Use an SSH tunnel to loopback.",
            )
        app = make_app(self.dataset)
        cli.say(f"dashboard: http://{self.host}:{self.port}  (Ctrl-C ends it)")
        uvicorn.run(app, host=self.host, port=self.port, log_level="warning")
        return cli.DONE


VERBS = {"serve": Serve}

if __name__ == "__main__":
    sys.exit(cli.main("python -m dashboard", "Watch a dataset in the browser.", VERBS))

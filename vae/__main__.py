"""`python -m vae train | eval | encode | decode | stats`: train and judge the spacetime VAE, encode a file,
decode a latent.
"""

from __future__ import annotations

import sys

from manifests import cli
from vae.commands import Decode, Encode, Eval, Stats, Train

VERBS = {"train": Train, "eval": Eval, "encode": Encode, "decode": Decode, "stats": Stats}

if __name__ == "__main__":
    sys.exit(cli.main("python -m vae", "The spacetime VAE.", VERBS))

"""`python -m captioner caption FILE_OR_FOLDER`: captions of any video or image."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioner import gate, make_captioner
from captioner.facts import file_facts
from captioner.protocol import ClipFrames
from manifests import cli
from manifests.errors import UsageError
from media import MediaError


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """Print captions of videos and images, each taken as one clip.

    Example: python -m captioner caption clip.mp4 --json
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files."""
    captioner: str = "measured"
    """Backend."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if not self.source.exists():
            raise UsageError(str(self.source), "does not exist")
        files = sorted(path for path in self.source.rglob("*") if path.is_file()) if self.source.is_dir() else [self.source]
        backend = make_captioner(self.captioner)
        backend.setup()
        found, num_failed = [], 0
        for path in files:
            try:
                frames, times_s, facts = file_facts(path)
            except MediaError as error:
                cli.say(f"{path}: {error}")
                num_failed += 1
                continue
            [captions] = backend.caption([ClipFrames(clip_id=path.name, frames=frames, times_s=times_s, facts=facts)])
            for caption in captions:
                found.append({"file": str(path), **asdict(caption), "reasons": gate(caption)})
                if not self.json:
                    print(f"{path}\t{caption.kind}\t{caption.text}")
        if self.json:
            cli.print_json(found)
        return cli.FAILED_ITEMS if num_failed else cli.DONE


VERBS = {"caption": CaptionFiles}

if __name__ == "__main__":
    sys.exit(cli.main("python -m captioner", "Captions and language.", VERBS))

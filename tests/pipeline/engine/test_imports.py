"""Who starts a run loads no network's libraries: they belong to the actors, and cost seconds."""

import subprocess
import sys

from tests.e2e.commands import environment

STAGES = """
import sys
from pipeline.config import CaptionConfig, EncodeConfig, TextConfig
import pipeline.engine.run
from pipeline.stages.caption import CaptionStage
from pipeline.stages.encode import Encode
from pipeline.stages.text import TextStage
from manifests.layout import Column
preview = Column("preview", "0" * 10)
captioner = sys.argv[1]
caption = CaptionStage(CaptionConfig(captioner=captioner), preview)
text = TextStage(TextConfig(), caption.column)
encode = Encode(EncodeConfig(), preview)
assert caption.column.fingerprint and text.column.fingerprint and encode.column.fingerprint
print(*sorted({"torch", "transformers", "open_clip", "torchvision"} & sys.modules.keys()))
"""


def test_the_stages_of_an_ingest_are_named_without_a_networks_libraries():
    for captioner in ("coca", "measured", "given"):
        command = [sys.executable, "-P", "-c", STAGES, captioner]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == []

"""Who starts a run loads no network's libraries: they belong to the actors, and cost seconds."""

import subprocess
import sys

from tests.e2e.commands import environment

STAGES = """
import sys
from pipeline.config import CaptionConfig, IngestConfig, ScoreConfig
from pipeline.engine.run import build_stages
caption, score = CaptionConfig(captioner=sys.argv[1]), ScoreConfig(use=("text",))
stages = build_stages(IngestConfig(caption=caption, score=score))
assert len(stages) == 5 and all(stage.column.fingerprint for stage in stages)
print(*sorted({"torch", "transformers", "open_clip", "torchvision"} & sys.modules.keys()))
"""


def test_the_stages_of_an_ingest_are_named_without_a_networks_libraries():
    for captioner in ("coca", "measured", "given"):
        command = [sys.executable, "-P", "-c", STAGES, captioner]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == []

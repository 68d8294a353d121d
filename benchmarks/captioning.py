"""The captioner: its scores on 500 held-out clips beside chance and the weightless baseline, and decoding
with and without a cache.

Run: python benchmarks/captioning.py [CLIPS]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from captioner.coca.config import CocaConfig
from captioner.coca.decoding import Decoding, write, write_uncached
from captioner.coca.model import VideoCoCa
from captioner.judging.commands import print_report
from captioner.judging.evaluation import run_evaluation
from captioner.options import CaptionerOptions

TOKENS, CLIPS, ROUNDS = 200, 4, 3


def decoding() -> None:
    """CPU seconds of 200 tokens for four clips, both ways in one run, median of three."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = VideoCoCa(CocaConfig(context_length=256)).eval()
    clips = torch.randn(CLIPS, model.config.max_frames, 3, 56, 96)
    seconds: dict[str, list[float]] = {"kept keys and values": [], "both towers anew": []}
    same = True
    for _ in range(ROUNDS):
        begin = time.process_time()
        cached = [item.ids for item in write(model, clips, 1, -1, Decoding(max_tokens=TOKENS))]
        middle = time.process_time()
        same &= cached == write_uncached(model, clips, 1, -1, TOKENS)
        seconds["kept keys and values"].append(middle - begin)
        seconds["both towers anew"].append(time.process_time() - middle)
    fast, slow = (statistics.median(found) for found in seconds.values())
    print(
        f"{TOKENS} tokens, {CLIPS} clips, {model.config.text_layers}+{model.config.decoder_layers} layers "
        f"of width {model.config.text_width}"
    )
    print(
        f"kept keys and values {fast:.2f} CPU s, both towers anew {slow:.2f} CPU s, ratio "
        f"{slow / fast:.1f}, same tokens: {same}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=500, help="clips that are captioned")
    count = parser.parse_args().count
    decoding()
    result, _ = run_evaluation(CaptionerOptions(captioner="coca"), count, 0, lambda: torch.set_num_threads(2))
    print_report(result)


if __name__ == "__main__":
    main()

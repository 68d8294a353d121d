"""The spacetime VAE beside codes of the same size, a Wan-class network of as many weights, and diffusers' own
encoding.

    python benchmarks/reconstruction.py [--footage FOLDER] [--sheet sheet.png]

Prints three tables, each measured in this one run: how well held-out clips come back; megapixels encoded a
second of CPU time; memory of encoding 257 frames with Wan.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vae.checkpoint import load_vae
from vae.folder import DEFAULT_WEIGHTS
from vae.measuring.evaluate import Named, evaluate, film_clips, real_clips, sheet, table, throughput
from vae.published.loading import published
from vae.training.clips import world_clips

LIST = Path(__file__).parent / "vae_files.txt"
"""The real files that are judged on, and never trained on."""

MEMORY = """
import resource, sys, torch
from vae.checkpoint import load_vae
torch.set_num_threads(1)
vae, way = load_vae(sys.argv[1]), sys.argv[2]
def frame(index):
    return torch.rand(3, 192, 192, generator=torch.Generator().manual_seed(index)) * 2 - 1
def frames(begin, end):
    return torch.stack([frame(index) for index in range(begin, end)], 1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    vae.model.encode(frames(0, 17)[None])  # what every encoding needs, its caches full
    base = peak()
    if way == "diffusers":
        mean = vae.model.encode(frames(0, 257)[None]).latent_dist.mean[0]
    else:
        stream = vae.stream()
        found = [piece for i in range(0, 257, 8) for piece in stream.push(frames(i, min(i + 8, 257)))]
        mean = torch.cat([piece[0] for piece in found + stream.flush()], 1)
torch.save(mean, sys.argv[3])
print(peak() - base)
"""


def wan(base_dim: int) -> torch.nn.Module:
    """A Wan 2.1 network of random weights."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    ).eval()


def weights(model: torch.nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def speed() -> None:
    """Encoding beside a Wan-class network whose number of weights is nearest ours."""
    torch.set_num_threads(1)
    ours = load_vae()
    theirs = min(
        (wan(size) for size in (8, 12, 16, 20, 24)), key=lambda model: abs(weights(model) - weights(ours))
    )
    mine, other = throughput(ours), throughput(published(theirs), num_frames=17, rounds=1)
    print(f"{'network':28}{'M weights':>10}{'encode Mpx / CPU s':>20}{'decode':>10}")
    for name, model, found in (
        ("rushes vae-tiny", ours, mine),
        (f"Wan 2.1, base {theirs.config.base_dim}", theirs, other),
    ):
        print(
            f"{name:28}{weights(model) / 1e6:10.2f}{found['encode_mpx_per_cpu_s']:20.3f}"
            f"{found['decode_mpx_per_cpu_s']:10.3f}"
        )
    print(f"ratio of encoding: {mine['encode_mpx_per_cpu_s'] / other['encode_mpx_per_cpu_s']:.1f}")


def memory() -> float:
    """Peak memory of encoding 257 frames of 192 x 192, above that of 17 frames; streamed and by diffusers'
    own `encode`. Returns the ratio.
    """
    with tempfile.TemporaryDirectory() as folder:
        wan(8).save_pretrained(folder)
        used, means = {}, {}
        for way in ("diffusers", "streamed"):
            out = Path(folder) / f"{way}.pt"
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, folder, way, str(out)],
                capture_output=True,
                text=True,
                check=True,
            )
            used[way], means[way] = int(done.stdout) / 1024, torch.load(out, weights_only=True)
    apart = float((means["diffusers"] - means["streamed"]).abs().max())
    ratio = used["streamed"] / used["diffusers"]
    print(
        f"257 frames with Wan: diffusers {used['diffusers']:.0f} MiB, streamed {used['streamed']:.0f} MiB, "
        f"ratio {ratio:.3f}; largest difference {apart:.1e}"
    )
    return ratio


def quality(footage: Path | None, picture: Path | None) -> None:
    """Held-out clips beside block PCA and bicubic."""
    torch.set_num_threads(2)
    sets = {"film world": film_clips(64)}
    fit_on = {"film world": [Named("", clip) for clip in world_clips(64, 0)]}
    if footage:
        chosen = LIST.read_text().split()
        sets["real files"] = real_clips(footage / name for name in chosen)
        others = [
            path
            for path in sorted(footage.rglob("*"))
            if path.is_file() and path.relative_to(footage).as_posix() not in chosen
        ]
        fit_on["real files"] = real_clips(others[::2])
    vae = load_vae()
    print(table(evaluate({DEFAULT_WEIGHTS.name: vae}, sets, fit_on)))
    if picture:
        sheet(vae, [clip for found in sets.values() for clip in found[:8]], picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--only", choices=["quality", "speed", "memory"])
    given = parser.parse_args()
    if given.only in (None, "quality"):
        quality(given.footage, given.sheet)
    if given.only in (None, "speed"):
        speed()
    if given.only in (None, "memory"):
        memory()

"""The encode stage: another VAE is another column and nothing else, a kill costs nothing, what is batched
equals what is streamed, and a sample is measured.
"""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from manifests.errors import UsageError
from manifests.store.shards import read_member
from manifests.tables import scans
from manifests.verify import verify
from manifests.views import View
from media.apart.reader import gpu_trouble, probe
from media.decode.container.timeline import LOST_FRAMES
from media.decode.images import decode_image
from media.errors import MediaError
from pipeline.config import EncodeConfig
from pipeline.stages import encode as module
from pipeline.stages.encode import Encode
from pipeline.stages.encoding import latents as making
from pipeline.stages.encoding.clip_frames import ClipRouter
from pipeline.stages.protocol import run_stage
from tests.vae.tiny_published import save_tiny
from trainer.data.catalogue.catalog import load_catalog
from trainer.presets import preset
from vae.checkpoint import load_vae
from vae.measuring.audit import latent_picture
from vae.stored import mean_and_logvar

SIZE = {"max_pixels": 4096}


def encode(dataset, run_id="again", most=None, **settings):
    """Run the stage over all shards, or the first few, and save view `second` of it. Returns the stage."""
    base = View.load(dataset)
    stage = Encode(EncodeConfig(**(SIZE | settings)), base.column("preview"))
    stage.setup()
    for shard in sorted(dataset.committed_shards(base.column("preview")))[:most]:
        run_stage(stage, dataset, run_id, shard, 0, lambda text: None)
    View(columns={**base.columns, "latent": stage.column}, where=base.where).save(dataset, "second")
    return stage


def files(dataset):
    return {
        path: path.read_bytes()
        for path in Path(dataset.uri).rglob("*")
        if path.is_file() and path.parts[-2] not in {"views"}
    }


def latents(dataset, column):
    return {
        member.key: load(read_member(dataset.filesystem, path, member))
        for path, members in scans.members(dataset, column).values()
        for member in members
        if member.field == "latent.safetensors"
    }


@pytest.mark.parametrize("name", ["wan21", "ltx"])
def test_another_vae_touches_only_the_latent_column(copy, tmp_path, name):
    before = files(copy)
    stage = encode(copy, vae=str(save_tiny(name, tmp_path / name)), audit_share=0.0)
    after = files(copy)
    assert {path: after[path] for path in before} == before
    new = [path.relative_to(copy.uri).as_posix() for path in set(after) - set(before)]
    assert new
    assert all(str(stage.column) in path or path.startswith("runs/") for path in new)
    assert verify(copy, deep=True).is_sound
    first, second = (
        load_catalog(copy, [View.load(copy, view)], preset("tiny")) for view in ("default", "second")
    )
    assert first.digest != second.digest
    assert (first.latent_channels, second.latent_channels) == (16, load_vae(tmp_path / name).latent_channels)
    rows = scans.table(copy, "latents", stage.column).to_pylist()
    assert len(rows) == scans.table(copy, "clips").num_rows
    assert all(row["audit_psnr_db"] is None for row in rows)


def test_latents_of_two_vaes_never_mix(copy, tmp_path):
    encode(copy, vae=str(save_tiny("ltx", tmp_path / "ltx")), audit_share=0.0)
    view = View.load(copy)
    mixed = View(
        columns={name: column for name, column in view.columns.items() if name != "latent"}, where=view.where
    )
    with pytest.raises(UsageError, match="latent"):
        load_catalog(copy, [mixed], preset("tiny"))


def test_what_is_batched_equals_what_is_streamed_and_what_the_vae_gives(copy, monkeypatch):
    base = View.load(copy).column("latent")
    batched = latents(copy, base)
    monkeypatch.setattr(making, "PUSH_FRAMES", 1)  # every clip streamed, frame by frame
    monkeypatch.setattr(module, "CODE_VERSION", -1)
    streamed = latents(copy, encode(copy).column)
    assert batched.keys() == streamed.keys()
    for key, tensors in batched.items():
        one, other = (mean_and_logvar(found)[0].float() for found in (tensors, streamed[key]))
        assert torch.allclose(one, other, atol=0.04, rtol=0.01)


def test_latents_of_half_precision_are_those_of_single_to_a_hundredth(copy, monkeypatch):
    view = View.load(copy)
    exact = latents(copy, view.column("latent"))
    stage = encode(copy, most=2, precision="bf16")
    half = latents(copy, stage.column)
    assert stage.column != view.column("latent")
    assert half and half.keys() <= exact.keys()
    moved = []
    for key, tensors in half.items():
        one, other = (mean_and_logvar(found)[0].float() for found in (exact[key], tensors))
        moved.append(float((one - other).square().mean().sqrt() / one.square().mean().sqrt()))
    assert 0 < max(moved) < 0.01
    monkeypatch.setattr("vae.measuring.half.MOST_OFF", 1e-4)
    with pytest.raises(UsageError, match="precision"):
        encode(copy, most=1, precision="bf16")


def test_clips_of_one_shape_go_together_though_others_lie_between(monkeypatch):
    shapes = [(3, 8, 32, 48), (3, 8, 48, 32), (3, 8, 32, 48), (3, 4, 32, 48), (3, 8, 48, 32), (3, 8, 32, 48)]
    videos = [torch.zeros(shape, dtype=torch.uint8) for shape in shapes]
    assert making.same_shape(videos) == [[0, 2, 5], [1, 4], [3]]
    monkeypatch.setattr(making, "BATCH_PIXELS", 2 * 8 * 32 * 48)
    assert making.same_shape(videos) == [[0, 2], [5], [1, 4], [3]]
    monkeypatch.setattr(making, "BATCH_PIXELS", 1)
    assert [len(places) for places in making.same_shape(videos)] == [1] * 6
    assert making.same_shape([]) == []


def test_a_clip_that_fails_takes_no_other_along(copy, monkeypatch):
    monkeypatch.setattr(module, "CODE_VERSION", -2)
    calls = []

    def broken(vae, videos):
        calls.append(len(videos))
        if len(calls) == 2:
            raise RuntimeError("out of memory, as told")
        return type(vae).encode_many(vae, videos)

    stage = Encode(EncodeConfig(**SIZE), View.load(copy).column("preview"))
    stage.setup()
    monkeypatch.setattr(stage.vae, "encode_many", lambda videos: broken(stage.vae, videos), raising=False)
    for shard in copy.committed_shards(stage.preview):
        account, _ = run_stage(stage, copy, "again", shard, 0, lambda text: None)
        assert account.num_in == account.num_kept + account.num_failed
    assert calls[1] == 1
    failures = scans.table(copy, "failures", stage.column).to_pylist()
    assert len(failures) == 1
    assert "as told" in failures[0]["cause"]
    made = scans.table(copy, "latents", stage.column).num_rows
    assert made + len(failures) == scans.table(copy, "clips").num_rows


def test_a_latent_that_is_not_finite_fails_alone(copy, monkeypatch):
    monkeypatch.setattr(module, "CODE_VERSION", -3)
    whole, spoiled = making.ShardWriter._encode_many, []

    def encode_many(self, videos):
        found = whole(self, videos)
        if not spoiled:
            spoiled.append(True)
            found[0] = (found[0][0].clone().fill_(float("inf")), found[0][1])
        return found

    monkeypatch.setattr(making.ShardWriter, "_encode_many", encode_many)
    stage = encode(copy)
    (failure,) = scans.table(copy, "failures", stage.column).to_pylist()
    assert failure["error"] == "not_finite"
    assert scans.table(copy, "latents", stage.column).num_rows == len(View.load(copy).kept(copy)) - 1
    for stats in scans.table(copy, "shards", stage.column, ["stats_json"])["stats_json"].to_pylist():
        assert "NaN" not in stats and "Infinity" not in stats
    load_catalog(copy, [View.load(copy, "second")], preset("tiny"))


def test_a_source_that_is_gone_costs_its_own_clips(copy, monkeypatch):
    gone = scans.table(copy, "clips").sort_by("clip_id")["source_id"][0].as_py()
    facts_of = making.facts_of

    def missing(row):
        if row["source_id"] == gone:
            raise MediaError("missing", "it was moved")
        return facts_of(row)

    monkeypatch.setattr(making, "facts_of", missing)
    monkeypatch.setattr(module, "CODE_VERSION", -3)
    stage = encode(copy)
    clips = {row["clip_id"]: row["source_id"] for row in scans.table(copy, "clips").to_pylist()}
    failed = scans.table(copy, "failures", stage.column).to_pylist()
    assert {clips[row["item_id"]] for row in failed} == {gone}
    assert {row["error"] for row in failed} == {"missing"}
    assert len(failed) + scans.table(copy, "latents", stage.column).num_rows == len(clips)


def test_of_a_batch_that_fails_each_clip_is_tried_alone():
    class Fragile:
        def encode_many(self, videos):
            if (videos > 0.9).any():
                raise RuntimeError("too bright")
            return [(video.mean(1), video.std(1)) for video in videos]

    writer = object.__new__(making.ShardWriter)
    writer.vae, writer.device, writer.is_half = Fragile(), torch.device("cpu"), False
    dark, bright = (
        torch.zeros(3, 2, 8, 8, dtype=torch.uint8),
        torch.full((3, 2, 8, 8), 255, dtype=torch.uint8),
    )
    one, wrong, other = writer._each([dark, bright, dark])
    assert str(wrong) == "too bright" and len(one) == len(other) == 2
    assert [str(found) for found in writer._each([bright])] == ["too bright"]


def test_a_sample_is_measured_and_every_latent_has_a_picture(copy):
    stage = encode(copy, most=2, audit_share=1.0)
    for row in scans.table(copy, "latents", stage.column).to_pylist():
        assert 15 < row["audit_psnr_db"] < 60
        assert 0.3 < row["audit_ssim"] <= 1
        assert 0 <= row["audit_flicker"] < 2
        assert row["audit_drift_db"] < 8
        assert row["audit_flag"] in {"", "low_psnr", "flicker", "drift", "low_psnr,flicker"}
    for path, members in scans.members(copy, stage.column).values():
        pictures = [
            decode_image(read_member(copy.filesystem, path, member))
            for member in members
            if member.field == "latent.png"
        ]
        assert len(pictures) == len(members) // 2
        assert all(picture.std() > 5 for picture in pictures)


def test_a_picture_of_a_latent_is_the_same_each_time():
    mean = torch.randn(16, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert latent_picture(mean) == latent_picture(mean.clone())
    assert decode_image(latent_picture(mean)).shape == (5, 3 * 7 + 2, 3)


KILLED = """
import sys, time
from manifests.layout import Dataset
from manifests.views import View
from pipeline.config import EncodeConfig
from pipeline.stages.encode import Encode
from pipeline.stages.protocol import run_stage
dataset = Dataset(sys.argv[1])
stage = Encode(EncodeConfig(max_pixels=4096), View.load(dataset).column("preview"))
stage.setup()
for shard in dataset.committed_shards(stage.preview):
    def told(text):
        print(shard, text, flush=True)
        time.sleep(float(sys.argv[3]))
    run_stage(stage, dataset, sys.argv[2], shard, 0, told)
"""


@pytest.mark.slow
@pytest.mark.long
def test_killed_five_times_at_random_it_ends_with_the_same_bytes(copy):
    column = View.load(copy).column("latent")

    def parts():
        return {
            path: data
            for path, data in files(copy).items()
            if str(column) in str(path)
            and "runs" not in path.parts
            and path.suffix != ".tmp"  # of an attempt that died less than a minute ago: swept later
        }

    whole = parts()
    for path in whole:
        if (
            "tables" in path.parts or random.Random(str(path.name)).random() < 0.5
        ):  # the commit records; the tars stay as debris
            path.unlink()
    dice = random.Random(5)
    for attempt in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, copy.uri, f"run-{attempt}", "0.1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(dice.randint(1, 6)):
            if not process.stdout.readline():
                break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not verify(copy).problems
    subprocess.run([sys.executable, "-c", KILLED, copy.uri, "last", "0"], check=True, capture_output=True)
    assert parts() == whole


def test_a_gpu_decodes_what_is_read_in_order_and_sound(films):
    """Not what curation saw hurt, nor the few clips of a long file to which decord jumps, nor stills."""
    facts = probe(str(sorted(films.glob("*.mp4"))[0]))
    clip = {"kind": "video", "start_s": 0.0, "end_s": facts.duration_s, "num_damaged_frames": 0}

    def decoder(facts, *clips, on_gpu=True):
        return ClipRouter(facts, None, list(clips), on_gpu=on_gpu).reader.decoder

    assert decoder(facts, clip) == "nvdec"
    assert decoder(facts, clip, on_gpu=False) == "pyav"
    assert decoder(facts, {**clip, "num_damaged_frames": 1}) == "pyav"
    assert decoder(replace(facts, decoder_reasons=(LOST_FRAMES,)), clip) == "pyav"
    assert decoder(replace(facts, codec="mpeg2video"), clip) == "pyav"
    few = [{**clip, "start_s": at, "end_s": at + 0.1} for at in (0.0, 5.0)]
    assert decoder(replace(facts, decoder="decord"), *few) == "decord"
    assert decoder(replace(facts, decoder="pillow", kind="image"), {**clip, "kind": "image"}) == "pillow"


def test_nvdec_without_a_gpu_is_refused_and_with_one_is_the_same_column(copy, monkeypatch):
    """Of the same bytes: here the decoders find no GPU after all, and the processor's frames are taken."""
    if gpu_trouble():
        with pytest.raises(UsageError, match="finds no GPU that decodes where an actor runs"):
            encode(copy, most=1, nvdec=True)
    monkeypatch.setattr("media.apart.reader.gpu_trouble", lambda: "")
    known = View.load(copy).column("latent")
    before = latents(copy, known)
    stage = Encode(EncodeConfig(**SIZE, nvdec=True), View.load(copy).column("preview"))
    assert stage.column == known
    stage.setup()
    for shard in sorted(copy.committed_shards(stage.column))[:2]:
        run_stage(stage, copy, "again", shard, 1, lambda text: None)
    after = latents(copy, known)
    assert after.keys() == before.keys()
    assert all((after[key][name] == before[key][name]).all() for key in after for name in after[key])

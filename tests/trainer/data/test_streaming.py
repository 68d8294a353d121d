import dataclasses
import io
import json
import shutil
import tarfile

import pytest
import torch
from safetensors.torch import load, save

from manifests import cli
from manifests.errors import UsageError
from manifests.views import View
from tests.trainer.data.small_runs import TEST
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.catalogue.held_out import is_held_out
from trainer.data.loader import PackReader
from trainer.data.samples import Sample
from trainer.data.tars.reading import stream
from trainer.data.tars.streaming import StreamLoader, StreamReader, check_kind, kind_of, survey
from trainer.run.fit import fit_tars
from trainer.sampling.canvas import Canvas
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.trained import load_model


def test_a_streamed_pack_is_what_the_index_gives(dataset, tars):
    config = dataclasses.replace(TEST, tokens=4096)
    catalog = load_catalog(dataset, [View.load(dataset)], config)
    row = next(iter(catalog.clips.values()))
    sample = Sample(row["clip_id"], row["shard"], row["latent_t"], row["latent_h"], row["latent_w"])
    ours = PackReader(dataset, catalog, config).read([sample], 3)
    reader = StreamReader(dataclasses.replace(catalog, clips={}), config)
    [clip] = [clip for clip in stream(tars) if clip.row["clip_id"] == row["clip_id"]]
    theirs = reader.read([reader.hold(clip)], 3)
    for name in ("clean", "valid", "coords", "cu"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_every_clip_comes_once_an_epoch_in_a_new_order_and_nothing_is_kept(tars):
    catalog, _, _ = survey(tars, TEST)
    loader = StreamLoader(tars, StreamReader(catalog, TEST))
    epochs: dict[int, list[str]] = {}
    for _, epoch, packs in loader.steps_from(0):
        if epoch == 3:
            break
        for pack in packs:
            assert pack.num_tokens <= TEST.tokens
            epochs.setdefault(epoch, []).extend(sample.clip_id for sample in pack.samples)
    wanted = sorted(
        clip.row["clip_id"] for clip in stream(tars) if not is_held_out(clip.row["clip_id"], TEST.held_out)
    )
    shown = sorted(name for names in epochs.values() for name in names)
    assert set(shown) == set(wanted)
    counts = [shown.count(name) for name in wanted]
    assert (
        max(counts) - min(counts) <= 1 + 64 // len(wanted) + 1
    )  # alike, but for what waits in the packer's pool
    assert not [text for pack in packs for text in pack.corrupt]
    assert epochs[1] != epochs[2]
    assert len(loader.reader.held) <= 64 + 8  # the pool alone


def test_what_is_shown_of_a_long_clip_is_another_part_each_epoch(tars):
    catalog, _, _ = survey(tars, TEST)
    clip = max(stream(tars), key=lambda clip: clip.row["latent_t"])
    reader = StreamReader(catalog, dataclasses.replace(TEST, tokens=16))
    parts = [reader.hold(clip, epoch) for epoch in range(12)]
    assert len({(part.start, part.top, part.left) for part in parts}) > 2
    assert parts == [reader.hold(clip, epoch) for epoch in range(12)]


def test_a_damaged_clip_costs_itself(tars, tmp_path, capsys):
    names, hurt = [clip.row["clip_id"] for clip in stream(tars[:1])], tmp_path / "a.tar"
    assert len(names) > 2
    with tarfile.open(tars[0]) as source, tarfile.open(hurt, "w") as sink:
        for member in source.getmembers():
            data = source.extractfile(member).read()
            if member.name == f"{names[1]}.latent.safetensors":
                data = data[:40]
            if member.name == f"{names[2]}.json":
                data = b"{"
            member.size = len(data)
            sink.addfile(member, io.BytesIO(data))
    assert [clip.row["clip_id"] for clip in stream([str(hurt)])] == [names[0], *names[3:]]
    assert capsys.readouterr().err.count("a clip is left out") == 2


def test_processes_read_different_tars_and_more_of_them_than_tars_are_refused(tars):
    catalog, _, _ = survey(tars, TEST)
    config = dataclasses.replace(TEST, packs_per_step=2)
    parts = [
        StreamLoader(tars, StreamReader(dataclasses.replace(catalog, clips={}), config), rank, 2).urls
        for rank in range(2)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(tars)
    with pytest.raises(UsageError, match="fewer than the 99"):
        StreamLoader(tars, StreamReader(catalog, TEST), 98, 99)


def test_a_run_on_plain_tars_trains_resumes_and_samples(tars, tmp_path):
    fit_tars(tars, dataclasses.replace(TEST, steps=3), tmp_path)
    fit_tars(tars, dataclasses.replace(TEST, steps=6), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    trained = load_model(tmp_path)
    [text] = trained.embed(["a red ball"])
    request = Request(canvas=Canvas(num_frames=5, height_px=40, width_px=56), prompts=(Prompt(text),))
    assert generate(trained, [request], Sampling(steps=2))[0].isfinite().all()


def test_tars_of_another_kind_are_refused_by_name(tars, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"jpeg"))
    with pytest.raises(UsageError, match=r"photos\.tar.*has no member"):
        survey([str(tmp_path / "photos.tar")], TEST)
    with pytest.raises(UsageError, match=r"gone\.tar"):
        survey([str(tmp_path / "gone.tar")], TEST)
    shutil.copy(tars[0], tmp_path / "fine.tar")
    with pytest.raises(UsageError, match="hold no clip to train on"):
        next(
            StreamLoader(
                [str(tmp_path / "fine.tar")],
                StreamReader(survey(tars, TEST)[0], dataclasses.replace(TEST, held_out=1.0)),
            ).steps_from(0)
        )


def of_another_vae(tar, out, add=0.0, **made_by):
    """The same clips as another VAE would have encoded them, under other names."""
    with tarfile.open(tar) as old, tarfile.open(out, "w") as new:
        for info in old.getmembers():
            data = old.extractfile(info).read()
            if info.name.endswith(".json"):
                record = json.loads(data)
                record["made_by"] |= made_by
                record["clip"]["clip_id"] = record["clip"]["clip_id"].replace("-", "-9", 1)
                data = json.dumps(record).encode()
            if add and info.name.endswith("latent.safetensors"):
                found = load(data)
                data = save({name: value + add if name == "mean" else value for name, value in found.items()})
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return str(out)


def test_an_export_names_the_weights_that_made_its_latents(dataset, tars):
    catalog, _, made_by = survey(tars, TEST)
    assert catalog.vae == made_by["vae_digest"] == load_catalog(dataset, [View.load(dataset)], TEST).vae
    assert catalog.vae


def test_tars_of_two_vaes_are_not_mixed(tars, tmp_path):
    other = of_another_vae(tars[0], tmp_path / "b.tar", vae="another", vae_digest="0123")
    with pytest.raises(UsageError, match=r"vae_digest 0123, not .*Give tars of one VAE"):
        survey([*tars, other], TEST)
    catalog, _, _ = survey(tars, TEST)
    reader = StreamReader(catalog, TEST)
    reader.hold(next(stream(tars)))
    with pytest.raises(UsageError, match="vae_digest 0123"):
        reader.hold(next(stream([other])))


@pytest.mark.parametrize(
    ("own", "its", "is_same"),
    [
        ({"vae": ""}, {"vae": "/mnt/team/weights/vae-tiny"}, True),
        ({"vae": "a/vae", "vae_digest": ""}, {"vae": "b/vae", "vae_digest": "0123"}, True),
        ({"vae": "a/vae", "vae_digest": ""}, {"vae": "b/other", "vae_digest": ""}, False),
        ({"text_encoder": "coca"}, {"text_encoder": "transformers"}, False),
    ],
)
def test_what_tars_do_not_say_is_no_difference(tars, tmp_path, own, its, is_same):
    paths = [
        of_another_vae(tars[0], tmp_path / f"{number}.tar", **said) for number, said in enumerate((own, its))
    ]
    first, second = (next(stream([path])) for path in paths)
    if is_same:
        check_kind(second, kind_of(first))
    else:
        with pytest.raises(UsageError, match="is not of what made the clips before it"):
            check_kind(second, kind_of(first))


def test_a_run_on_other_tars_keeps_its_statistics_and_refuses_another_vae(tars, tmp_path):
    run, more = tmp_path / "run", of_another_vae(tars[0], tmp_path / "more.tar")
    fit_tars(tars[:1], dataclasses.replace(TEST, steps=2), run)
    before = json.loads((run / "model.json").read_text())
    fit_tars([*tars, more], dataclasses.replace(TEST, steps=3), run, takes_new_data=True)
    after = json.loads((run / "model.json").read_text())
    for name in ("latent_mean", "latent_std", "vae", "vae_digest"):
        assert before[name] == after[name], name
    assert survey([*tars, more], TEST)[0].mean != before["latent_mean"], "they would be others"
    other = of_another_vae(tars[0], tmp_path / "other.tar", 3.0, vae="another", vae_digest="0123")
    with pytest.raises(UsageError, match="latents of another VAE"):
        fit_tars([other], dataclasses.replace(TEST, steps=4), run, takes_new_data=True)
    assert json.loads((run / "model.json").read_text()) == after


@pytest.mark.parametrize(
    "words",
    [
        ["--view", "nope"],
        ["--balance", "camera"],
        ["--image-share", ".3"],
        ["--stages", "st.json"],
        ["--cache", "/tmp/c"],
        ["--mix", "default", "1"],
        ["--long-clips", "cover"],
        ["--set", "image_share=0.3"],
    ],
)
def test_options_that_choose_among_a_dataset_are_refused_with_tars(tars, tmp_path, capsys, words):
    arguments = ["fit", "tiny", "--tars", tars[0], "--out", str(tmp_path / "run"), *words]
    assert cli.main(arguments=arguments) == cli.USAGE
    told = "image_share of the settings: has no effect" if "--set" in words else f"{words[0]}: has no effect"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

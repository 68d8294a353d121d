"""Tars that others made, or that were hurt: what a clip says is held against what it holds."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load, save

from manifests.errors import RushesError, UsageError
from tests.trainer.data.small_runs import TEST
from trainer.data.tars.reading import stream
from trainer.data.tars.streaming import StreamLoader, StreamReader, survey
from trainer.run.fit import fit_tars


def changed(tar, out, change, only=None):
    """The tar with each clip's members changed by `change(name, data)`; of clip `only` alone, by its number.

    Members for which it gives None are left out.
    """
    keys = list[str]()
    with tarfile.open(tar) as old, tarfile.open(out, "w") as new:
        for info in old.getmembers():
            data, key = old.extractfile(info).read(), info.name.partition(".")[0]
            keys += [key] if key not in keys else []
            if only is None or keys.index(key) == only:
                data = change(info.name.partition(".")[2], data)
            if data is None:
                continue
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return str(out)


def of_record(part, **values):
    """A change of the JSON: fields of parts of it, `...` for one that goes."""

    def change(name, data):
        if name != "json":
            return data
        record = json.loads(data)
        for own in [record[one] for one in part.split()] or [record]:
            for key, value in values.items():
                if value is ...:
                    own.pop(key, None)
                else:
                    own[key] = value(own[key]) if callable(value) else value
        return json.dumps(record).encode()

    return change


def of_tensors(member, made):
    """A change of a member's tensors."""
    return lambda name, data: save(made(load(data))) if name == member else data


LATENT, TEXT = "latent.safetensors", "text.safetensors"


def each(made):
    return lambda found: {name: made(value.clone()) for name, value in found.items()}


def with_nan(value):
    value.view(-1)[3] = float("nan")
    return value


WRONG = {
    "mean alone": of_tensors(LATENT, lambda found: {"mean": next(iter(found.values()))}),
    "no number": of_tensors(LATENT, each(with_nan)),
    "infinite": of_tensors(LATENT, each(lambda value: value / 0)),
    "integers": of_tensors(LATENT, each(lambda value: value.int())),
    "doubles": of_tensors(LATENT, each(lambda value: value.double())),
    "no latent": lambda name, data: None if name == LATENT else data,
    "no texts": lambda name, data: None if name == TEXT else data,
    "no record": lambda name, data: None if name == "json" else data,
    "a list": lambda name, data: b"[1]" if name == "json" else data,
    "no json": lambda name, data: b"{" if name == "json" else data,
    "shorter": of_record("latent", latent_t=lambda old: old + 2),
    "higher": of_record("latent", latent_h=lambda old: 2 * old),
    "more frames": of_record("latent", num_frames=lambda old: 4 * old + 9),
    "text for a count": of_record("latent", latent_t=str),
    "other channels": of_record("latent", num_channels=8),
    "other factors": of_record("latent", factor_px=16),
    "no frame rate": of_record("clip latent", fps=...),
    "a rate of nothing": of_record("clip latent", fps=None),
    "a rate below": of_record("clip latent", fps=-1),
    "no captions": of_record("", captions=...),
    "no caption": of_record("", captions=[]),
    "no maker": of_record("", made_by=...),
    "no id": of_record("clip latent", clip_id=...),
    "a number for an id": of_record("clip latent", clip_id=7),
    "no shard": of_record("clip latent", shard=...),
    "flat texts": of_tensors(TEXT, each(lambda value: value.flatten())),
    "texts that are none": of_tensors(TEXT, each(with_nan)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_clip_whose_record_is_not_of_its_tensors_is_left_out_and_counted(tars, tmp_path, capsys, name):
    names = [clip.row["clip_id"] for clip in stream(tars[:1])]
    one = changed(tars[0], tmp_path / "one.tar", WRONG[name], only=1)
    left_out = []
    assert [clip.row["clip_id"] for clip in stream([one], left_out=left_out.append)] == [names[0], *names[2:]]
    [error] = left_out
    assert error.subject == f"{one}:{names[1]}" and error.cause and error.next_step
    catalog, _, _ = survey(tars, TEST)
    loader = StreamLoader([one], StreamReader(catalog, dataclasses.replace(TEST, held_out=0.0)))
    steps, corrupt = loader.steps_from(0), []
    for number, epoch, packs in steps:
        corrupt += [clip for pack in packs for clip in pack.corrupt]
        if epoch or number > 20:
            break
    assert corrupt and set(corrupt) == {error.subject}
    every = changed(tars[0], tmp_path / "every.tar", WRONG[name])
    with pytest.raises(UsageError, match=r"every\.tar"):
        survey([every], TEST)


def test_too_many_clips_that_cannot_be_read_end_a_run(tars, tmp_path):
    for number in range(len(list(stream(tars[:1])))):
        if number > 1:
            tars = [changed(tars[0], tmp_path / f"{number}.tar", WRONG["no number"], only=number)]
    with pytest.raises(RushesError, match="unreadable, over the limit"):
        fit_tars(tars, dataclasses.replace(TEST, steps=40, held_out=0.0), tmp_path / "run")


def test_two_clips_of_one_id_keep_their_own_latents(tars, tmp_path):
    """One footage at two sizes: ids come of the source and the time."""

    def smaller(name, data):
        if name == LATENT:
            return save({key: value[..., :-1].contiguous() for key, value in load(data).items()})
        return of_record("latent", latent_w=lambda w: w - 1, width_px=lambda w: w - 8)(name, data)

    narrow = changed(tars[0], tmp_path / "narrow.tar", smaller)
    config = dataclasses.replace(TEST, tokens=4096, held_out=0.0)
    catalog, _, _ = survey(tars, config)
    reader = StreamReader(catalog, config)
    pairs = [(clip, reader.hold(clip)) for clip in stream([tars[0], narrow])]
    assert (
        len({sample.clip_id for _, sample in pairs})
        == len(pairs)
        == 2 * len({clip.row["clip_id"] for clip, _ in pairs})
    )
    for clip, sample in pairs:
        assert reader.whole_latent(sample)[0] is clip.latent[0]
        assert (sample.latent_t, sample.latent_h, sample.latent_w) == tuple(clip.latent[0].shape[1:])
    again = [reader.hold(clip) for clip, _ in pairs]
    assert again == [sample for _, sample in pairs]
    reader.let_go(again)
    reader.let_go([sample for _, sample in pairs])
    assert not reader.held


def test_tars_are_read_to_their_end(tars, tmp_path, capsys):
    whole = [clip.row["clip_id"] for clip in stream(tars[:2])]
    first, second = (Path(path).read_bytes() for path in tars[:2])
    body = first[: len(first.rstrip(b"\0")) + 511 & ~511]
    with tarfile.open(tars[0]) as tar:
        members = tar.getmembers()
        middle = members[3 * (len(members) // 6)].offset
    found = {}
    for name, data in {
        "joined": first + second,
        "zeros": first[:middle] + bytes(20 * 512) + first[middle:],
        "no end": body,
        "a lost header": first[:middle] + bytes(512) + first[middle + 512 :],
        "cut": first[: middle + 700],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        try:
            found[name] = [clip.row["clip_id"] for clip in stream([str(tmp_path / f"{name}.tar")])]
        except UsageError as error:
            found[name] = str(error)
    of_first = [clip.row["clip_id"] for clip in stream(tars[:1])]
    assert found["joined"] == whole and found["zeros"] == found["no end"] == of_first
    assert capsys.readouterr().err.count("no end.tar ends without a tar's end") == 1
    for name in ("a lost header", "cut"):
        assert f"{name}.tar: cannot be read" in found[name] and "object at" not in found[name]

"""Tars that others made, or that were hurt: what a clip says is held against what it holds."""

import bz2
import dataclasses
import gzip
import io
import json
import lzma
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


def smaller(name, data):
    if name == LATENT:
        return save({key: value[..., :-1].contiguous() for key, value in load(data).items()})
    return of_record("latent", latent_w=lambda w: w - 1, width_px=lambda w: w - 8)(name, data)


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


def test_two_sizes_in_one_joined_tar_keep_their_own_latents(tars, tmp_path):
    """Their ids and their names in the tar are the same."""
    narrow = changed(tars[0], tmp_path / "narrow.tar", smaller)
    (tmp_path / "both.tar").write_bytes(Path(tars[0]).read_bytes() + Path(narrow).read_bytes())
    catalog, _, _ = survey(tars, TEST)
    reader = StreamReader(catalog, dataclasses.replace(TEST, tokens=4096))
    pairs = [(clip, reader.hold(clip)) for clip in stream([str(tmp_path / "both.tar")])]
    assert len({sample.clip_id for _, sample in pairs}) == len(pairs) > 1
    for clip, sample in pairs:
        assert reader.whole_latent(sample)[0] is clip.latent[0]


def test_what_is_left_out_is_counted_among_what_was_read(tars, tmp_path):
    """And not against the first pack, before which many clips are read ahead: one in nine is no half."""
    names = len(list(stream(tars)))
    one = changed(tars[0], tmp_path / "one.tar", WRONG["no number"], only=1)
    catalog, _, _ = survey(tars, TEST)
    loader = StreamLoader([one, *tars[1:]], StreamReader(catalog, dataclasses.replace(TEST, held_out=0.0)))
    read, corrupt, most = 0, 0, 0.0
    for number, _, packs in loader.steps_from(0):
        read += sum(len(pack.members) + len(pack.corrupt) for pack in packs)
        corrupt += sum(len(pack.corrupt) for pack in packs)
        most = max(most, corrupt / read - 3 / read)
        if number == 40:
            break
    assert corrupt and most < 2 / names and corrupt / read == pytest.approx(1 / names, rel=0.6)


def test_too_many_clips_that_cannot_be_read_end_a_run(tars, tmp_path):
    for number in range(len(list(stream(tars[:1])))):
        if number > 1:
            tars = [changed(tars[0], tmp_path / f"{number}.tar", WRONG["no number"], only=number)]
    with pytest.raises(RushesError, match="unreadable, over the limit"):
        fit_tars(tars, dataclasses.replace(TEST, steps=40, held_out=0.0), tmp_path / "run")


def test_two_clips_of_one_id_keep_their_own_latents(tars, tmp_path):
    """One footage at two sizes: ids come of the source and the time."""

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
        "padded": first + bytes(100),
        "signed": first + b"a signature" * 200,
        "gz": gzip.compress(first) + gzip.compress(second),
        "many gz": b"".join(gzip.compress(first[at : at + 7000]) for at in range(0, len(first), 7000)),
        "bz2": bz2.compress(first) + bz2.compress(second),
        "xz": lzma.compress(first) + lzma.compress(second),
        "cut gz": gzip.compress(first)[:-2000],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        try:
            found[name] = [clip.row["clip_id"] for clip in stream([str(tmp_path / f"{name}.tar")])]
        except UsageError as error:
            found[name] = str(error)
    of_first = [clip.row["clip_id"] for clip in stream(tars[:1])]
    for name in ("gz", "bz2", "xz"):
        assert found[name] == whole, name
    for name in ("padded", "signed", "many gz"):
        assert found[name] == of_first, name
    assert found["joined"] == whole and found["zeros"] == found["no end"] == of_first
    said = capsys.readouterr().err
    assert said.count("no end.tar ends without a tar's end") == 1
    assert said.count("signed.tar has other bytes behind a tar's end") == 1
    for name in ("a lost header", "cut", "cut gz"):
        assert f"{name}.tar: cannot be read" in found[name] and "object at" not in found[name]

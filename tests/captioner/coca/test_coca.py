"""The video CoCa: equal to open_clip's image model, decoding with and without a cache, training exact to
resume.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.coca_model import CoCa
from safetensors.torch import save_file

from captioner.coca.abstaining.domain import Domain
from captioner.coca.abstaining.looks import Looks
from captioner.coca.checkpoint import save_stage
from captioner.coca.config import CocaConfig, from_open_clip, tiny
from captioner.coca.decoding import Decoding, write, write_uncached
from captioner.coca.folder import write_folder
from captioner.coca.inputs import clip_input, input_size, looked_at, normalised
from captioner.coca.model import VideoCoCa, load_open_clip
from captioner.coca.stems import RADIUS, matches
from captioner.coca.tokenizer import END, PAD, START, CaptionTokenizer, ClipTokenizer, batch
from captioner.coca.training import stages
from captioner.coca.training.data import Batches, Lesson, changed, film_examples
from captioner.coca.training.stage import StageConfig, train_stage
from captioner.coca.training.stages import fork
from captioner.gates.slots import compare, new_tallies, read, truth
from manifests import cli
from manifests.errors import UsageError
from tests.captioner.coca.small import SMALL, losses_of
from tests.e2e.commands import ROOT, environment
from world import captions as words
from world.scene import sample_shot

LEGACY = CocaConfig(
    embed_dim=64,
    image_px=48,
    patch_px=8,
    vision_width=64,
    pooler_queries=16,
    text_width=64,
    context_length=40,
    vocab_size=120,
    stem="patch",
    is_legacy=True,
)


@pytest.fixture(scope="module")
def examples():
    return film_examples(48, 5, SMALL, workers=1)


@pytest.fixture(scope="module")
def tokenizer(examples):
    return CaptionTokenizer.train(
        (text for example in examples for texts in example.texts.values() for text in texts), SMALL.vocab_size
    )


def filled(model):
    """Weights as a trained model has them: open_clip leaves some as memory was."""
    for value in model.parameters():
        if not torch.isfinite(value).all() or value.abs().max() > 1e3:
            torch.nn.init.normal_(value, std=0.05)
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)
    return model.eval()


def test_one_frame_equals_open_clips_image_model_to_the_bit():
    torch.manual_seed(0)
    image = filled(CoCa(**LEGACY.open_clip_arguments()))
    video = VideoCoCa(LEGACY).eval()
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"temporal", "difference.weight"}, [])
    pictures, text = torch.randn(3, 3, 48, 48), torch.randint(1, 120, (3, 20))
    with torch.no_grad():
        expected, (clip, words, logits) = image(pictures, text), video(pictures[:, None], text)
    assert torch.equal(expected["image_features"], clip)
    assert torch.equal(expected["text_features"], words)
    assert torch.equal(expected["logits"], logits)


@pytest.mark.slow
def test_released_sizes_load_and_equal_the_image_model(tmp_path):
    import open_clip

    torch.manual_seed(0)
    image = filled(open_clip.create_model("coca_ViT-B-32"))
    save_file(
        {key: value.clone() for key, value in image.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    video = load_open_clip("coca_ViT-B-32", tmp_path / "weights.safetensors")
    pictures, text = torch.randn(1, 3, 224, 224), torch.randint(1, 49000, (1, 20))
    with torch.no_grad():
        expected, (clip, _, logits) = image(pictures, text), video(pictures[:, None], text)
    assert torch.equal(expected["image_features"], clip)
    assert torch.equal(expected["logits"], logits)


def test_how_well_a_text_fits_does_not_hang_on_the_length_of_others_in_its_batch(tokenizer):
    torch.manual_seed(0)
    model = VideoCoCa(SMALL).eval()
    torch.nn.init.normal_(model.text.positional_embedding, std=0.5)
    short = "a red ball"
    with torch.no_grad():
        alone = model._encode_text(batch(tokenizer, [short], 64))
        beside = model._encode_text(
            batch(
                tokenizer,
                [short, f"{short} that moves left on a green meadow under a pale sky, in daylight"],
                64,
            )
        )
    length = alone[1].shape[1]
    assert beside[1].shape[1] > length + 5
    assert torch.allclose(alone[0][0], beside[0][0], atol=1e-5)
    assert torch.allclose(alone[1][0], beside[1][0, :length], atol=1e-4)
    assert batch(ClipTokenizer(), [short], 76).shape == (
        1,
        76,
    )  # released weights have learnt it behind the whole context


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-1, 0), (0, 3), (1, -2)])
def test_matching_tells_how_each_place_moved(dx, dy):
    """Ten pictures of noise, moved by some cells: at every place away from the border the likeliest
    displacement is that one.
    """
    here = torch.randn(10, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    there = torch.roll(here, (dy, dx), dims=(2, 3))
    likely = matches(here, there)
    assert torch.allclose(likely.sum(1), torch.full((10, 14, 14), 2.0 * RADIUS + 1), atol=1e-3)
    inside = likely[:, :, 4:-4, 4:-4].argmax(1)
    assert (inside == (dy + RADIUS) * (2 * RADIUS + 1) + dx + RADIUS).float().mean() == 1.0


def test_where_nothing_can_be_told_apart_all_displacements_are_alike():
    likely = matches(torch.full((1, 3, 9, 9), 0.3), torch.full((1, 3, 9, 9), 0.3))
    assert torch.allclose(likely, torch.full_like(likely, 1 / (2 * RADIUS + 1)))


def test_as_many_clips_of_several_things_are_drawn_as_asked():
    for several in (0.0, 0.7, 1.0):
        found = film_examples(60, 11, SMALL, workers=1, several=several)
        assert abs(sum(len(example.shot.things) > 1 for example in found) / 60 - several) < 0.15
    assert [example.texts for example in film_examples(8, 11, SMALL, workers=1)] == [
        example.texts for example in film_examples(8, 11, SMALL, workers=2)
    ]


def test_weights_of_another_model_are_refused(tmp_path):
    save_file({"visual.conv1.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises((UsageError, RuntimeError)):
        load_open_clip("coca_ViT-B-32", tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="not a CoCa"):
        from_open_clip("ViT-B-32")


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
def test_what_is_no_file_of_weights_is_refused_before_anything_is_made(tmp_path, capsys, name):
    (tmp_path / name).write_text("nothing of the kind")
    words = ["train-captioner", str(tmp_path / "out"), "--films", "8", "--init", str(tmp_path / name)]
    assert cli.main(arguments=words) == cli.USAGE
    assert f"{name}: is no file of weights" in capsys.readouterr().err
    words = ["train-captioner", str(tmp_path / "out"), "--films", "8", "--stage", "dense"]
    assert cli.main(arguments=words) == cli.USAGE
    assert "has no stage base" in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()


@settings(max_examples=12)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([(48, 48), (32, 72), (72, 32)]))
def test_decoding_with_a_cache_equals_decoding_without(seed, frames, size):
    torch.manual_seed(seed)
    model = VideoCoCa(SMALL).eval()
    clips = torch.randn(2, frames, 3, *size)
    cached = [item.ids for item in write(model, clips, START, -1, Decoding(max_tokens=24))]
    assert cached == write_uncached(model, clips, START, -1, 24)


def test_a_clip_is_captioned_the_same_alone_and_in_a_batch_and_samples_repeat_by_seed():
    torch.manual_seed(3)
    model = VideoCoCa(SMALL).eval()
    clips = torch.randn(3, 2, 3, 48, 48)
    together = [item.ids for item in write(model, clips, START, END, Decoding())]
    assert together == [write(model, clip[None], START, END, Decoding())[0].ids for clip in clips]
    drawn = [
        [item.ids for item in write(model, clips, START, END, Decoding(method="nucleus", seed=seed))]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_beam_search_finds_captions_at_least_as_probable_as_greedy():
    better = 0
    for seed in range(4):
        torch.manual_seed(seed)
        model = VideoCoCa(SMALL).eval()
        clip = torch.randn(1, 2, 3, 48, 48)
        greedy, beam = (
            write(model, clip, START, -1, Decoding(method=method, max_tokens=8, beams=6))[0]
            for method in ("greedy", "beam")
        )
        assert sum(beam.logprobs) >= sum(greedy.logprobs) - 1e-4
        better += sum(beam.logprobs) > sum(greedy.logprobs) + 1e-4
    assert better


def test_padding_is_no_text_and_any_text_comes_back(tokenizer):
    for text in ("A red ball!", "Ünïcode, 42% & more", "two  spaces"):
        assert tokenizer.decode([START, *tokenizer.encode(text), END, PAD, PAD]).split() == text.split()
    ids = batch(tokenizer, ["a red ball", "a"], 64)
    assert PAD not in tokenizer.encode("!!! a red ball !!!")
    assert (ids[1] == PAD).sum() == ids.shape[1] - 2 - len(tokenizer.encode("a"))


def test_words_that_hardly_occur_apart_are_one_token_and_slots_that_go_with_any_are_not():
    learnt = CaptionTokenizer.train([words.dense(sample_shot(seed, 1.5, 2.0)) for seed in range(600)], 640)

    def parts(text):
        return [learnt.decode([token]) for token in learnt.encode(text)]

    found = parts("A large red striped ball that moves from left to right by the open sea")
    assert found[-5:] == ["red", "striped", "ball", "that moves from left to right", "by the open sea"]
    for text in (
        "The camera pans to the leftmost",
        "that moves from leftovers",
        "that moves  from left to right",
        "A red ball.",
    ):
        assert learnt.decode(learnt.encode(text)).split() == text.split()


@given(st.integers(8, 4000), st.integers(8, 4000))
def test_the_whole_frame_is_seen_at_about_one_number_of_patches(width, height):
    across, down = input_size(width, height, SMALL)
    assert across % 8 == down % 8 == 0
    if 1 / 6 < width / height < 6:
        assert 0.6 * SMALL.max_patches <= across * down / 64 <= 1.45 * SMALL.max_patches
        assert abs(across / 8 - (across * down / 64 * width / height) ** 0.5) <= 1.0


@given(st.integers(1, 200), st.integers(1, 16))
def test_frames_looked_at_are_in_order_and_of_the_clip(count, most):
    picked = looked_at(count, replace(SMALL, max_frames=most))
    assert len(picked) == min(count, most)
    assert picked == sorted(set(picked))
    assert 0 <= picked[0] <= picked[-1] < count


def test_a_move_is_seen_over_one_step_in_time_unless_the_clip_is_long():
    config = replace(SMALL, max_frames=3, most_in_a_row=12)
    assert looked_at(7, config) == [2, 3, 4]
    assert looked_at(4, config) == [1, 2, 3]
    assert looked_at(12, config) == [5, 6, 7]
    assert looked_at(13, config) == [0, 6, 12]


def test_changed_examples_have_the_captions_of_what_they_show(examples):
    """The facts of the changed shot are those its text is read to say."""
    for index, example in enumerate(examples):
        other = changed(example, np.random.default_rng(index))
        assert not compare(read(other.texts["dense"][0]), truth([other.shot]), new_tallies())
        assert other.frames.shape == example.frames.shape


def test_batches_repeat_by_step_and_come_as_their_lesson_says(examples):
    lessons = {0: Lesson(True, 1.0), 1: Lesson(still_share=1.0), 2: Lesson()}
    first, second = (Batches(examples, "dense", 4, 7, lambda step: lessons[step // 10]) for _ in range(2))
    again = {step: second.at(step) for step in reversed(range(30))}
    for step in range(30):
        clips, texts = first.at(step)
        assert np.array_equal(clips, again[step][0])
        assert texts == again[step][1]
        if step < 20:
            assert clips.shape[1] == 1
            assert not any("moves" in text or "camera" in text for text in texts)
    assert any("moves" in text for step in range(20, 30) for text in first.at(step)[1])
    every = Batches(examples, "dense", 4, 7, changes=lambda example, rng: example)
    assert {text for step in range(200) for text in every.at(step)[1]} == {
        example.texts["dense"][0] for example in examples
    }


def test_looking_and_watching_teach_the_words_of_captions(examples, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = StageConfig(kind="dense", steps=45, look_steps=20, watch_steps=20, batch=8, warmup_steps=3)
    train_stage(
        VideoCoCa(SMALL), tokenizer, Batches(examples, "dense", 8, 0, config.lesson), config, tmp_path
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("words", 0) > 0 for row in rows] == [True] * 40 + [False] * 5
    assert ["loss" in row for row in rows] == [False] * 40 + [True] * 5  # what was not computed is not told
    assert np.mean([row["words"] for row in rows[15:20]]) < 0.5 * rows[0]["words"]
    assert np.mean([row["words"] for row in rows[35:40]]) < np.mean([row["words"] for row in rows[20:23]])
    assert all(row["loss"] > 0 for row in rows[40:])
    assert rows[0]["lr"] < rows[2]["lr"] == pytest.approx(config.words_lr, rel=0.1)
    assert rows[40]["lr"] < config.lr


def test_a_fork_begins_between_its_base_and_something_new(tokenizer, tmp_path):
    folder = write_folder(tmp_path, SMALL, tokenizer)
    base = VideoCoCa(SMALL).eval()
    save_stage(folder, "base", base.state_dict(), {})
    whole, half, again = (
        fork(folder, StageConfig(kind="dense", steps=1, kept=kept)) for kept in (1.0, 0.5, 0.5)
    )
    for (name, own), kept, mixed, repeated in zip(
        base.named_parameters(), whole.parameters(), half.parameters(), again.parameters(), strict=True
    ):
        assert torch.allclose(kept, own, atol=5e-3), name  # the base is kept in half precision
        assert torch.equal(mixed, repeated), name
    own, mixed = base.text.token_embedding.weight, half.text.token_embedding.weight
    assert 0.4 < ((mixed - own).norm() / own.norm()).item() < 1.0
    assert F.cosine_similarity(mixed.flatten(), own.flatten(), dim=0) > 0.6
    assert torch.equal(half.text.attn_mask, base.text.attn_mask)


def test_a_sampled_caption_is_the_one_it_would_be_alone():
    torch.manual_seed(0)
    model, clips = VideoCoCa(SMALL).eval(), torch.randn(5, 2, 3, 48, 48)
    decoding = Decoding(method="nucleus", temperature=1.0, top_p=0.95, max_tokens=12, seed=5)
    together = [item.ids for item in write(model, clips, START, END, decoding)]
    assert together == [
        write(model, clips[index : index + 1], START, END, decoding)[0].ids for index in range(5)
    ]


def test_a_killed_stage_resumes_to_the_same_losses_and_weights(examples, tokenizer, tmp_path):
    config = StageConfig(kind="dense", steps=12, batch=8, save_every=4, accumulate=2, muon_gain=1.5)

    def run(folder, model, **changes):
        torch.manual_seed(0)
        return train_stage(model, tokenizer, Batches(examples, "dense", 8, 0), config, folder)[0]

    def fresh():
        torch.manual_seed(0)
        return VideoCoCa(SMALL)

    whole = run(tmp_path / "whole", fresh())

    class KilledError(Exception):
        pass

    class Dying(Batches):
        def at(self, step):
            if step == 6:
                raise KilledError
            return super().at(step)

    with pytest.raises(KilledError):
        train_stage(fresh(), tokenizer, Dying(examples, "dense", 8, 0), config, tmp_path / "killed")
    assert len(losses_of(tmp_path / "killed")) == 6
    resumed = run(tmp_path / "killed", fresh())
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(UsageError, match="other data, with other settings or with another number"):
        train_stage(
            fresh(),
            tokenizer,
            Batches(examples, "dense", 8, 1),
            StageConfig(kind="dense", steps=12, batch=8, seed=1),
            tmp_path / "killed",
        )


def test_learning_lowers_the_loss_and_accumulation_changes_nothing_of_the_caption_loss(
    examples, tokenizer, tmp_path
):
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        config = StageConfig(
            kind="short", steps=40, batch=8, accumulate=parts, contrast_weight=0.0, warmup_steps=5
        )
        train_stage(
            VideoCoCa(SMALL), tokenizer, Batches(examples, "short", 8, 0), config, tmp_path / str(parts)
        )
        found.append(losses_of(tmp_path / str(parts)))
    assert np.allclose(found[0][:10], found[1][:10], rtol=2e-3)
    assert np.mean(found[0][-5:]) < 0.4 * np.mean(found[0][:3])


def train_arguments(folder, steps, *options):
    return [
        "train-captioner",
        str(folder),
        "--films",
        "24",
        "--steps",
        str(steps),
        "--batch",
        "4",
        "--threads",
        "1",
        *options,
    ]


def command(launcher, folder, *options, steps=3):
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "rushes", *train_arguments(folder, steps, *options)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_the_command_trains_three_stages_and_knows_what_is_done(tmp_path):
    command([], tmp_path / "w")
    record = json.loads((tmp_path / "w" / "config.json").read_text())
    assert set(record["stages"]) == {"base", "short", "dense"}
    assert record["stages"]["dense"]["command"].startswith("rushes train-captioner w")
    assert record["stages"]["dense"]["domain"]["min_alignment"] > -1
    assert Looks.load(tmp_path / "w") is not None
    assert command([], tmp_path / "w").count("is done") == 3


@pytest.mark.slow
@pytest.mark.long
def test_the_command_killed_in_two_stages_ends_with_the_same_losses_and_weights(tmp_path):
    """SIGKILL after a save of the base, and again in the dense fork."""
    whole, killed = tmp_path / "whole" / "w", tmp_path / "killed" / "w"
    command([], whole, steps=220)
    for stage, after in (("base", 204), ("dense", 204)):
        with open(tmp_path / f"{stage}.txt", "w") as told:
            arguments = [sys.executable, "-m", "rushes", *train_arguments(killed, 220)]
            process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=told, stderr=told)
        log = killed / "training" / stage / "metrics.jsonl"
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < after):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert "alt: resumed after step 200" in (tmp_path / "dense.txt").read_text()
    assert "dense: resumed after step 200" in command([], killed, steps=220)
    for stage in ("base", "short", "dense"):
        assert losses_of(killed / "training" / stage) == losses_of(whole / "training" / stage)
        assert (killed / f"{stage}.safetensors").read_bytes() == (whole / f"{stage}.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    command([], tmp_path / "one", "--stage", "base")
    command(
        ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"],
        tmp_path / "two",
        "--stage",
        "base",
    )
    one, two = (losses_of(tmp_path / name / "training" / "base") for name in ("one", "two"))
    assert one == pytest.approx(two, rel=2e-3)


def test_of_a_dataset_one_clip_in_twenty_is_held_out_and_its_like_are_known(monkeypatch):
    """Thresholds are measured on clips that were not learnt from, and of films and footage together both are
    known.
    """
    own = film_examples(60, 6, SMALL, workers=1)
    monkeypatch.setattr(stages, "dataset_examples", lambda *arguments: own)
    learnt, held = stages.Source(films=0, data="somewhere").examples(SMALL)
    assert (len(learnt), len(held)) == (57, 3)
    assert not {id(example) for example in learnt} & {id(example) for example in held}
    films = film_examples(40, 7, SMALL, workers=1)
    looks = Looks.measure(
        [example.frames for example in [*films, *learnt]], [example.frames for example in held]
    )
    assert max(looks.distance(example.frames) for example in learnt) < 1e-1


def test_clips_unlike_the_training_clips_are_sent_away_and_those_like_them_are_not(tmp_path):
    films = film_examples(260, 5, tiny(), workers=1)
    Looks.measure(
        [example.frames for example in films[:200]], [example.frames for example in films[200:]]
    ).save(tmp_path)
    looks = Looks.load(tmp_path)
    assert not any(
        looks.reasons(example.frames) for example in films[:200]
    )  # its own training clips are at distance 0
    assert sum(bool(looks.reasons(example.frames)) for example in films[200:]) <= 1
    rng = np.random.default_rng(0)
    for strange in (
        rng.integers(0, 255, (1, 72, 72, 3)),
        np.zeros((1, 72, 72, 3)),
        np.tile(np.linspace(0, 255, 72), (1, 72, 3, 1)).transpose(0, 1, 3, 2),
    ):
        [reason] = looks.reasons(strange.astype(np.uint8))
        assert reason.startswith("look:")
    assert Looks.load(tmp_path / "nowhere") is None


def test_a_caption_that_is_unsure_or_does_not_fit_is_not_believed():
    domain = Domain.from_record(json.loads(json.dumps(Domain.measure([-0.1] * 400, [0.8] * 400).to_record())))
    assert domain.reasons(-0.1, 0.8) == []
    assert [reason.split(":")[0] for reason in domain.reasons(-3.0, 0.1)] == ["logprob", "alignment"]
    assert Domain.from_record(None).reasons(-9.0, -1.0) == []


def test_frames_reach_the_model_whole_and_normalised():
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[:, -2:] = 255  # the last columns must be seen: nothing is cropped
    found = clip_input([frame, frame], SMALL)
    assert found.shape[0] == 2
    assert found[0, :, -1].mean() > 30
    x = normalised(found[None])
    assert x.shape[2] == 3
    assert float(x.min()) == pytest.approx(-0.48145466 / 0.26862954, rel=1e-4)


def test_a_stage_that_is_done_knows_what_it_began_from_and_older_ones_are_let_be(tmp_path):
    asked, source = StageConfig(kind="base", steps=2), stages.Source(films=4)
    (tmp_path / "one.pt").write_bytes(b"one")
    (tmp_path / "two.pt").write_bytes(b"two")
    done = asdict(asked) | stages._origin("base", source, tmp_path / "one.pt")
    stages._check_same(tmp_path, "base", done, asked, source, tmp_path / "one.pt")
    for init in (None, tmp_path / "two.pt"):
        with pytest.raises(UsageError, match="began_from"):
            stages._check_same(tmp_path, "base", done, asked, source, init)
    older = {name: value for name, value in done.items() if name not in ("began_from", "view")}
    stages._check_same(tmp_path, "base", older, asked, source, None)

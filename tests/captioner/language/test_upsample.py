"""Prompt upsampling keeps every word of the user's, stays within the rule of length, and adds only camera,
light and style.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.film_clips import sample_clip
from captioner.language.upsample import MAX_WORDS, MIN_WORDS, PhraseUpsampler, lost_words
from world import captions
from world.scene import SHAPES

FITTED = PhraseUpsampler.fit(captions.dense(sample_clip(seed).shot) for seed in range(300))
WORDS = st.lists(
    st.sampled_from(
        "a red cat dog runs on the hill camera pans light slowly 3 café rock'n'roll blue-grey ! , .".split()
    ),
    min_size=1,
    max_size=120,
)


@given(WORDS, st.booleans(), st.integers(0, 50))
def test_every_content_word_survives_and_length_keeps_the_rule(words, is_video, choice):
    prompt = " ".join(words)
    result = FITTED(prompt, is_video, choice)
    assert lost_words(prompt, result) == []
    assert len(result.split()) <= max(MAX_WORDS, len(prompt.split()))


def test_a_short_prompt_gains_light_and_camera_but_no_thing():
    result = FITTED("a red cat on a hill")
    assert len(result.split()) >= MIN_WORDS
    assert "camera" in result
    assert "light" in result
    assert not any(shape in result for shape in SHAPES)
    assert "camera" not in FITTED("a red cat on a hill", is_video=False)


def test_what_the_user_says_is_not_said_again():
    assert (
        FITTED("a dog in daylight, the camera pans left and stays with the dog for a long while").count(
            "camera"
        )
        == 1
    )
    assert len({FITTED("a dog", choice=choice) for choice in range(8)}) > 3
    assert FITTED("word " * 90).split() == ["word"] * 90


def test_what_the_captions_do_not_say_is_not_added():
    plain = PhraseUpsampler.fit(["Two dogs run on a beach.", "A man cooks."])
    assert plain("a dog") == f"A dog. {plain.style}" and PhraseUpsampler.of(plain.to_json()) == plain
    assert FITTED("a dog").startswith("A dog, in ")
    for word in ("at dawn", "at dusk", "in the morning", "by candle light"):
        assert ", in " not in FITTED(f"a rover on Mars {word}")


@pytest.mark.parametrize(
    "prompt",
    [
        *("a little red ball rolls", "a sunflower turns", "a lighthouse on a rock", "a nightingale sings"),
        *("a parade on Sunday", "a litter of puppies", "a darkroom door", "a lightweight boat"),
    ],
)
def test_words_that_only_begin_like_light_are_none(prompt):
    assert "in daylight" in PhraseUpsampler()(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["a candlelit room", "a ball at night", "a dimly lit hall", "a sunny day", "neon signs", "at midnight"],
)
def test_words_of_light_are_enough(prompt):
    assert "daylight" not in PhraseUpsampler()(prompt)


def test_a_name_keeps_its_first_letter():
    assert PhraseUpsampler()("iPhone on a desk").startswith("iPhone")
    assert PhraseUpsampler()("red ball").startswith("Red ball")


@pytest.mark.parametrize(
    "other",
    ["a red ball in the desert", "two cubes at night", "a dog pans", "dog, film", "very " * 73 + "old dog"],
)
def test_prompts_of_one_sample_gain_the_same_or_nothing(other):
    """Else an edit or a blend would show what they gained."""
    fill, one = PhraseUpsampler(), "a green ball"
    gained = [Counter(words(fill(text, beside=(one, other)))) - Counter(words(text)) for text in (one, other)]
    assert gained[0] == gained[1]
    assert fill(one, beside=(one, "")) == one, "from nothing"


def words(text):
    return text.lower().replace(".", " ").replace(",", " ").split()

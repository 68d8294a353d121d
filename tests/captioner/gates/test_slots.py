"""The reader of captions: it reads the truth's own words without a fault, and other words for the same."""

from hypothesis import given
from hypothesis import strategies as st

from captioner.film_clips import sample_clip
from captioner.gates.slots import compare, new_tallies, read, truth
from captioner.judging.cider import cider
from world import captions


def wrong(caption, shot):
    return compare(read(caption), truth([shot]), new_tallies())


@given(st.integers(0, 1 << 30))
def test_the_truth_in_its_own_words_is_read_without_a_fault(seed):
    shot = sample_clip(seed).shot
    assert wrong(captions.dense(shot), shot) == set()


def two_things():
    return next(
        shot
        for seed in range(200)
        if len((shot := sample_clip(seed, is_video=True).shot).things) == 2
        and shot.things[0].motion == "right"
        and not shot.title
    )


def test_each_false_word_is_a_fault_in_its_own_attribute():
    shot = two_things()
    text = captions.dense(shot)
    assert wrong(text.replace("from left to right", "from right to left", 1), shot) == {"direction"}
    assert wrong(text.replace(shot.things[0].shape, "cone"), shot) >= {"object"}
    camera = text[text.index("The camera") :]
    assert wrong(
        text.replace(camera, "The camera zooms in." if "zooms in" not in camera else "The camera is static."),
        shot,
    ) == {"camera"}


def test_synonyms_are_understood():
    found = read(
        "A tiny crimson sphere rises and a big violet cube is motionless in front of bricks. The shaky "
        "camera is hand-held."
    )
    assert [
        (thing.size, thing.color, thing.shape, thing.direction or thing.motion) for thing in found.things
    ] == [
        ("small", "red", "ball", "up"),
        ("large", "purple", "box", "still"),
    ]
    assert (found.background, found.camera) == ("brick wall", "handheld")


def test_silence_is_neither_true_nor_false():
    tallies = new_tallies()
    compare(read("something"), truth([two_things()]), tallies)
    assert all(tally.said == 0 for tally in tallies.values())
    assert tallies["object"].true == 2


def test_cuts_are_counted():
    one, two = sample_clip(1, is_video=True).shot, sample_clip(2, is_video=True).shot
    text = f"{captions.dense(one)} Then the shot changes. {captions.dense(two)}"
    tallies = new_tallies()
    compare(read(text), truth([one, two]), tallies)
    assert (tallies["shot changes"].recall, tallies["object"].recall, tallies["object"].precision) == (
        1.0,
        1.0,
        1.0,
    )


def test_cider_ranks_a_false_template_above_a_true_paraphrase():
    """Why it is printed as not for ranking."""
    shots = [sample_clip(seed, is_video=True).shot for seed in range(60)]
    true = [captions.dense(shot) for shot in shots]
    half_false = [
        text.replace("left", "LEFT")
        .replace("right", "left")
        .replace("LEFT", "right")
        .replace("small", "large")
        for text in true
    ]
    paraphrase = [
        f"One sees {shot.things[0].color} and {shot.background}; what is there is a {shot.things[0].shape}"
        for shot in shots
    ]
    references = [[text] for text in true]
    assert cider(true, references) > 9.9
    assert cider(half_false, references) > 3 * cider(paraphrase, references)

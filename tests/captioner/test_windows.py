"""Long clips: windows cover the clip, share a frame, part at cuts, and merge without adding or losing a
sentence.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captioner.gates.answers import fields_text
from captioner.protocol import Caption, ClipFrames, Provenance, Usage
from captioner.windows import MOST_SHORT, Windowed, bounds_s, merge, windows


def clip(length_s, cuts_s=(), fps=2.0):
    times = [index / fps for index in range(int(length_s * fps))]
    facts = {
        "kind": "video",
        "num_frames": len(times),
        "start_s": 0.0,
        "end_s": length_s,
        "cuts_s": list(cuts_s),
    }
    return ClipFrames(
        clip_id="c",
        frames=[np.full((4, 6, 3), index % 250, np.uint8) for index in range(len(times))],
        times_s=times,
        facts=facts,
    )


@given(st.floats(1.0, 200.0), st.lists(st.floats(0.0, 200.0), max_size=5), st.floats(2.0, 16.0))
def test_windows_cover_a_clip_in_order_and_none_is_much_longer_than_asked(length_s, cuts, window_s):
    bounds = bounds_s(0.0, length_s, cuts, window_s)
    assert bounds[0] == 0.0
    assert bounds[-1] == length_s
    assert all(
        0 < high - low <= window_s * 4 / 3 + 1e-6 for low, high in zip(bounds, bounds[1:], strict=False)
    )


def test_windows_share_one_frame_with_the_one_before_but_not_over_a_cut():
    parts = windows(clip(30.0), 12.0)
    assert [len(part.frames) for part in parts] == [30, 31]
    assert parts[0].times_s[-1] == parts[1].times_s[0]
    cut = windows(clip(10.0, cuts_s=[4.0]), 12.0)
    assert [(part.times_s[0], part.times_s[-1]) for part in cut] == [(0.0, 3.5), (4.0, 9.5)]
    assert windows(clip(10.0), 12.0)[0].clip_id == "c"


class Teller:
    """Says which second it sees first, and what it was told."""

    name, version, at_once = "teller", "teller/1", 1

    def __init__(self):
        self.contexts, self.num_frames = [], 0

    def setup(self):
        pass

    def caption(self, clips, attempt=0):
        self.contexts += [one.context for one in clips]
        self.num_frames += sum(len(one.frames) for one in clips)
        out = []
        for one in clips:
            text = f"It is calm. Now it is second {one.facts['start_s']:.0f}."
            out.append(
                [
                    Caption(kind="short", text="calm", source="teller", usage=Usage(output_tokens=1)),
                    Caption(kind="dense", text=text, source="teller"),
                ]
            )
        return out


def test_parts_are_merged_told_what_came_before_and_kept():
    teller = Teller()
    long, short = Windowed(teller, 12.0).caption([clip(30.0, cuts_s=[15.0]), clip(5.0)])
    assert teller.contexts == ["", "", "It is calm. Now it is second 0."]
    dense = next(caption for caption in long if caption.kind == "dense")
    assert (
        dense.text
        == "It is calm. Now it is second 0. Then the shot changes. It is calm. Now it is second 15."
    )
    kept = [caption for caption in long if caption.kind == "window"]
    assert [caption.span_s for caption in kept] == [(0.0, 15.0), (15.0, 30.0)]
    assert sum(caption.usage.output_tokens for caption in long) == 2
    assert [caption.kind for caption in short] == ["short", "dense"]


def test_a_sentence_said_of_two_windows_stands_once_and_cost_grows_with_length():
    teller = Teller()
    [captions] = Windowed(teller, 10.0).caption([clip(40.0)])
    dense = next(caption for caption in captions if caption.kind == "dense")
    assert dense.text.count("It is calm.") == 1
    first, teller = teller.num_frames, Teller()
    Windowed(teller, 10.0).caption([clip(80.0)])
    assert teller.num_frames <= 2.1 * first


class Looker:
    """Says what it sees of each window, in all kinds, from its first and last frame."""

    name, version, at_once = "looker", "looker/1", 1

    def setup(self):
        pass

    def caption(self, clips, attempt=0):
        out = []
        for one in clips:
            last = len(one.frames) - 1
            seen = Provenance(frame_indices=(0, last), frame_times_s=(one.times_s[0], one.times_s[last]))
            what = "a dog" if one.facts["start_s"] < 12 else "a cat"
            fields = {
                "subjects": [what],
                "actions": ["runs"],
                "setting": f"near {what}",
                "camera": {"tag": "static"},
            }
            common = {"source": "looker", "provenance": seen}
            out.append(
                [
                    Caption(kind="short", text=f"{what} runs", **common),
                    Caption(kind="dense", text=f"It is {what}.", fields=fields, **common),
                    Caption(kind="structured", text=fields_text(fields), fields=fields, **common),
                ]
            )
        return out


def test_short_and_structured_captions_are_of_the_whole_and_frames_are_counted_in_it():
    whole = clip(36.0)
    [captions] = Windowed(Looker(), 12.0).caption([whole])
    found = {caption.kind: caption for caption in captions if caption.kind != "window"}
    assert found["short"].text == "a dog runs, then a cat runs"
    fields = found["structured"].fields
    assert (fields["subjects"], fields["actions"]) == (["a dog", "a cat"], ["runs"])
    assert fields["setting"] == "near a dog, then near a cat" and fields["camera"] == {"tag": "static"}
    assert "a cat" in found["structured"].text
    for caption in captions:
        seen = caption.provenance
        assert tuple(whole.times_s[index] for index in seen.frame_indices) == seen.frame_times_s
    assert max(found["dense"].provenance.frame_indices) == len(whole.frames) - 1
    parts = [caption.provenance.frame_indices for caption in captions if caption.kind == "window"]
    assert len(parts) == 3 and parts[1][0] > 0


def test_a_model_is_not_asked_to_join_nothing():
    class Short(Looker):
        def caption(self, clips, attempt=0):
            found = super().caption(clips, attempt)
            return [[caption for caption in own if caption.kind == "short"] for own in found]

        def merge(self, clip, texts):
            raise AssertionError(texts)

    [captions] = Windowed(Short(), 12.0).caption([clip(30.0)])
    assert [caption.kind for caption in captions] == ["short"]


def test_a_short_caption_of_many_windows_stays_short():
    said = [
        [Caption(kind="short", text=f"thing number {n} moves about slowly", source="x")] for n in range(20)
    ]
    [short] = merge(said, [False] * 20)
    assert short.text.startswith("thing number 0") and 10 < len(short.text.split()) <= MOST_SHORT

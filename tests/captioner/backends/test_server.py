"""The openai backend against a real HTTP server that can be told to fail: every clip is accounted for, none
is lost or doubled.
"""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from captioner.backends import server as module
from captioner.backends.asking import asker
from captioner.backends.reply import reply_of
from captioner.backends.server import AwayError, ServerCaptioner
from captioner.judging.judged import judge_events, judge_questions, load_captions, load_truth
from captioner.language.upsample import PhraseUpsampler, lost_words, model_upsampler
from captioner.options import CaptionerOptions
from captioner.protocol import BudgetSpentError, ClipFrames
from captioner.registry import make_captioner
from captioner.windows import Windowed
from captioner.writing import write_captions
from manifests.errors import UsageError
from media.decode.images import decode_image
from tests.captioner.backends.chat_server import ANSWER, ChatServer, pictures


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key-of-the-test")


def clip(index):
    frames = [np.full((40, 60, 3), 10 * index + 3 * place, np.uint8) for place in range(3)]
    facts = {
        "kind": "video",
        "num_frames": 36,
        "fps": 24.0,
        "start_s": 0.0,
        "end_s": 1.5,
        "camera": "static",
        "camera_confidence": 0.9,
    }
    return ClipFrames(clip_id=f"clip-{index}", frames=frames, times_s=[0.0, 0.5, 1.0], facts=facts)


def options(server, **changes):
    return CaptionerOptions(
        **(
            {"captioner": "openai", "server": server.url, "model": "tiny", "concurrency": 3, "timeout_s": 0.8}
            | changes
        )
    )


def test_every_clip_is_captioned_through_faults_and_once():
    with ChatServer() as server:
        server.faults = ["429", "500", "half", "timeout", "", "refusal", "repeat", "429", "500"]
        captioner = make_captioner(options(server, retries=3))
        found = write_captions(captioner, [clip(index) for index in range(8)], retries=3)
        assert len(found) == 8
        for captions in found:
            accepted = [caption.kind for caption in captions if caption.verdict.status == "accepted"]
            assert sorted(accepted) == ["dense", "short", "structured"], captions
        rejected = [
            caption for captions in found for caption in captions if caption.verdict.status == "rejected"
        ]
        reasons = {reason.split(":")[0] for caption in rejected for reason in caption.verdict.reasons}
        assert {"refusal", "cut_off"} <= reasons
        assert server.most_at_once <= 3
        total = sum(caption.usage.requests for captions in found for caption in captions)
        assert total == len(server.requests)
        retried = [request for request in server.requests if request["temperature"] > 0]
        assert len(retried) == 2  # other sampling for the two that were rejected, and for them alone
        assert set(server.keys) == {"Bearer secret-key-of-the-test"}
        assert "secret" not in repr(found) + captioner.version


def test_what_a_clip_shows_is_sent_whole_with_its_times():
    with ChatServer() as server:
        ServerCaptioner(options(server)).caption([clip(4)])
        [request] = server.requests
        assert [decode_image(data).shape for data in pictures(request)] == [(40, 60, 3)] * 3
        texts = [part["text"] for part in request["messages"][-1]["content"] if part["type"] == "text"]
        assert texts[:3] == ["Frame at 0.00 s:", "Frame at 0.50 s:", "Frame at 1.00 s:"]
        assert request["response_format"]["json_schema"]["strict"] is True
        ServerCaptioner(options(server, video_parts="video")).caption([clip(4)])
        assert server.requests[-1]["messages"][-1]["content"][0]["video_url"]["url"].startswith(
            "data:video/webm;base64,"
        )


def test_a_server_without_schemas_is_asked_in_words():
    with ChatServer(has_schema=False) as server:
        [[short, *_]] = ServerCaptioner(options(server)).caption([clip(1)])
        assert short.text == "a red ball"
        assert ["response_format" in request for request in server.requests] == [True, False]


def test_all_requests_in_flight_are_asked_again_where_the_server_has_no_schemas():
    with ChatServer(has_schema=False) as server:
        found = ServerCaptioner(options(server, concurrency=8)).caption([clip(index) for index in range(8)])
        assert [captions[0].text for captions in found] == ["a red ball"] * 8


@pytest.mark.parametrize(
    "broken",
    [
        '{"short": "a red ball", "dense": "A red ball lies on a meadow, in daylight."}',
        "{'short': 'a red ball', 'dense': 1}",
        '```json\n{ "short": 1,',
    ],
)
def test_what_is_left_of_an_object_is_no_caption_and_asked_for_again(broken):
    answers = iter([broken])
    with ChatServer(lambda request: next(answers, json.dumps(ANSWER))) as server:
        [captions] = write_captions(ServerCaptioner(options(server)), [clip(1)], retries=1)
        assert [reason.split(":")[0] for reason in captions[0].verdict.reasons][-1] == "schema"
        assert {caption.kind for caption in captions if caption.verdict.status == "accepted"} == {
            "short",
            "dense",
            "structured",
        }


def test_an_answer_of_another_protocol_costs_one_request_and_says_so():
    with ChatServer() as server:
        server.faults = ["html"]
        [[caption]] = ServerCaptioner(options(server)).caption([clip(1)])
        assert "chat protocol" in caption.finish_reason
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": float("inf"), "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": "12", "completion_tokens": None}, (0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 2.0}, (0, 2)),
        ("much", (0, 0)),
        (None, (0, 0)),
    ],
)
def test_odd_counts_of_tokens_cost_no_caption(usage, tokens):
    message = {
        "content": [
            {"type": "text", "text": "A ball "},
            {"type": "text", "text": "moves."},
            7,
            {"type": "thinking", "text": "Hm."},
        ]
    }
    reply = reply_of({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
    assert reply.text == "A ball moves."
    assert (reply.cost.prompt_tokens, reply.cost.output_tokens) == tokens


def test_a_merge_without_an_answer_leaves_the_parts_joined_in_order():
    with ChatServer() as server:
        server.faults = ["", "", "400"]
        frames = [np.zeros((8, 8, 3), np.uint8)] * 20
        long = ClipFrames(
            clip_id="long",
            frames=frames,
            times_s=[index / 2 for index in range(20)],
            facts=clip(0).facts | {"end_s": 10.0},
        )
        [captions] = make_captioner(options(server, window_s=4.0)).caption([long])
        assert len(server.requests) == 3
        assert "A red ball moves" in next(caption.text for caption in captions if caption.kind == "dense")


def test_a_window_without_an_answer_is_told_of_the_whole():
    with ChatServer() as server:
        server.faults = ["", "401"]
        frames = [np.zeros((8, 8, 3), np.uint8)] * 20
        long = ClipFrames(
            clip_id="long",
            frames=frames,
            times_s=[index / 2 for index in range(20)],
            facts=clip(0).facts | {"end_s": 10.0},
        )
        inner = ServerCaptioner(options(server))
        inner.merge = lambda clip, parts: []
        [captions] = Windowed(inner, 4.0).caption([long])
        assert "401" in next(caption.finish_reason for caption in captions if caption.kind == "dense")


def test_an_error_keeps_what_the_server_said_and_the_others_their_captions():
    with ChatServer() as server:
        server.faults = ["401"]
        captioner = ServerCaptioner(options(server, concurrency=1))
        bad, good = write_captions(captioner, [clip(0), clip(1)], retries=2)
        assert len(server.requests) == 2
        assert "told to fail with 401" in bad[0].finish_reason
        assert bad[0].verdict.status == "rejected"
        assert {caption.verdict.status for caption in good} == {"accepted"}


@pytest.mark.parametrize("fault", ["401", "429", "500"])
def test_a_server_that_refuses_everything_stops_the_work(fault, monkeypatch):
    monkeypatch.setattr("captioner.backends.server.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("captioner.backends.server.MAX_TRIES", 1)
    with ChatServer() as server:
        server.faults = [fault] * 60
        captioner = ServerCaptioner(options(server, concurrency=4))
        with pytest.raises(AwayError, match="in a row without an answer"):
            captioner.caption([clip(index % 8) for index in range(30)])
        server.faults = ([fault] * 5 + [""]) * 5  # now and then one has an answer
        asked = [clip(index % 8) for index in range(30)]
        found = ServerCaptioner(options(server, concurrency=1)).caption(asked)
        assert sum(captions[0].finish_reason == "stop" for captions in found) == 5


def test_a_budget_stops_before_it_is_overspent():
    with ChatServer() as server:
        captioner = ServerCaptioner(options(server, budget_requests=2, concurrency=1))
        found = captioner.caption(
            [clip(index) for index in range(4)]
        )  # what is paid for is kept, the others say why they have nothing
        assert [captions[0].finish_reason.split(":")[0] for captions in found] == [
            "stop",
            "stop",
            "error",
            "error",
        ]
        assert "--budget-requests" in found[2][0].finish_reason
        assert len(server.requests) == 2
        with pytest.raises(BudgetSpentError):
            captioner.caption([clip(4)])
        with pytest.raises(BudgetSpentError):
            write_captions(captioner, [clip(5)], retries=1)
        server.faults = ["refusal"]
        captioner = ServerCaptioner(options(server, budget_requests=2, concurrency=1))
        refused, good = write_captions(
            captioner, [clip(0), clip(1)], retries=1
        )  # it runs out before the second try
        assert any("--budget-requests" in caption.finish_reason for caption in refused)
        assert {caption.verdict.status for caption in good} == {"accepted"}
        captioner = ServerCaptioner(options(server, budget_tokens=100, concurrency=1))
        assert "--budget-tokens" in captioner.caption([clip(0), clip(1)])[1][0].finish_reason


def test_a_long_clip_is_told_what_came_before_and_merged_by_the_model():
    with ChatServer() as server:
        captioner = make_captioner(options(server, window_s=4.0))
        frames = [np.zeros((8, 8, 3), np.uint8)] * 20
        long = ClipFrames(
            clip_id="long",
            frames=frames,
            times_s=[index / 2 for index in range(20)],
            facts=clip(0).facts | {"end_s": 10.0},
        )
        [captions] = captioner.caption([long])
        assert len(server.requests) == 3  # two windows and the merge
        assert "Before it: A red ball moves" in server.requests[1]["messages"][-1]["content"][-1]["text"]
        assert "Join them" in server.requests[2]["messages"][-1]["content"][-1]["text"]
        assert [caption.kind for caption in captions].count("window") == 2


def test_servers_and_models_must_be_named():
    with pytest.raises(UsageError, match="--server"):
        make_captioner(CaptionerOptions(captioner="openai", model="x"))


def test_a_models_upsampling_is_taken_only_if_no_word_is_lost():
    answers = iter(
        [
            "A cat sleeps.",
            "A small black cat sits on a mat in warm light while the camera holds still in one long shot of "
            "the quiet room.",
        ]
    )
    with ChatServer(answer=lambda request: next(answers)) as server:
        upsample = model_upsampler(asker(server.url, "tiny"), PhraseUpsampler())
        assert upsample("a black cat on a mat").startswith("A small black cat")
    with ChatServer(
        answer=lambda request: (
            "Something else entirely, with very many words that have nothing to do with what was asked for "
            "at all."
        )
    ) as server:
        upsample = model_upsampler(asker(server.url, "tiny"), PhraseUpsampler())
        assert lost_words("a black cat on a mat", upsample("a black cat on a mat")) == []


def test_benchmarks_with_a_judge_say_how_steady_it_was(tmp_path):
    """A judge that finds a word of the event in the caption; one event makes it change its mind."""
    asked = []

    def answer(request):
        text = request["messages"][-1]["content"]
        if text.startswith("List the visual events"):
            return "- a dog runs\n- a sun sets"
        asked.append(text)
        event = (
            text.split("Event: ")[-1].split("\n")[0]
            if "Event: " in text
            else text.split("True answer: ")[-1].split("\n")[0]
        )
        if "wavers" in event:
            return "yes" if len(asked) % 2 else "no"
        return "yes" if event.split()[-1] in text.split("\n")[0] else "No."

    (tmp_path / "dream.jsonl").write_text(
        '{"video_file": "v/a.mp4", "events": ["a dog runs", "a cat sleeps", "it wavers"], "description": "a '
        'dog runs and a cat sleeps"}\n'
    )
    (tmp_path / "vdc.json").write_text(
        '{"a.mp4": [{"question": "what runs?", "answer": "dog"}, {"question": "where?", "answer": "moon"}]}'
    )
    accepted = {"status": "accepted"}
    captions = (
        f'[{{"file": "x/a.mp4", "kind": "dense", "text": "a dog runs", "verdict": {{"status": '
        f'"{accepted["status"]}"}}}}]'
    )
    (tmp_path / "captions.json").write_text(captions)
    with ChatServer(answer=answer) as server:
        told = load_captions(tmp_path / "captions.json")
        events = judge_events(
            load_truth(tmp_path / "dream.jsonl", "events"), told, asker(server.url, "judge"), runs=3
        )
        questions = judge_questions(
            load_truth(tmp_path / "vdc.json", "questions"), told, asker(server.url, "judge"), runs=3
        )
    assert round(events["recall"], 2) in {0.33, 0.67}
    assert events["precision"] == 0.5
    assert events["steady_verdicts"] == pytest.approx(4 / 5)
    assert questions["accuracy"] == 0.5
    with pytest.raises(UsageError, match="no events"):
        load_truth(tmp_path / "vdc.json", "events")


def test_an_answer_that_drips_is_given_up_at_its_limit():
    with ChatServer() as server:
        server.faults = ["drip"]
        begin = time.monotonic()
        found = ServerCaptioner(options(server, timeout_s=0.6)).caption([clip(1)])
        assert len(found[0]) == 3 and len(server.requests) == 2
        assert time.monotonic() - begin < 5.5  # the server goes on for three seconds, each time


def test_a_date_to_ask_again_at_is_waited_for():
    with ChatServer() as server:
        server.faults = ["date"]
        begin = time.monotonic()
        ServerCaptioner(options(server)).caption([clip(1)])
        assert len(server.requests) == 2 and time.monotonic() - begin > 0.9  # of a clock of whole seconds


@pytest.mark.parametrize(
    "said",
    [
        "<think>hm {0}</think>{1}",
        "hm {0}\n</think>\n\n{1}",  # a template that opens the thought itself
        "<thinking>\nhm</thinking> {1}",
        "\ud800<think>hm</think>{1}\x00\x07",
    ],
)
def test_what_a_model_thinks_is_no_caption(said):
    answer = said.replace("{0}", "I see a ball.").replace("{1}", ANSWER["dense"])
    with ChatServer(answer=lambda request: answer) as server:
        [captions] = ServerCaptioner(options(server)).caption([clip(1)])
        assert [caption.text for caption in captions] == [ANSWER["dense"]]


def test_a_thought_without_an_end_is_no_answer_and_half_characters_are_rejected():
    with ChatServer(answer=lambda request: "<think>hm, a ball that moves") as server:
        [[caption]] = ServerCaptioner(options(server)).caption([clip(1)])
        assert "an answer without text" in caption.finish_reason and not caption.text
    with ChatServer(answer=lambda request: "A red \ud800 ball moves from left to right.") as server:
        [captions] = write_captions(make_captioner(options(server)), [clip(1)], retries=0)
        assert captions[0].verdict.reasons == ("unreadable",)


def test_windows_without_an_answer_say_nothing():
    with ChatServer() as server:
        server.faults = ["400"] * 20
        long = replace(clip(1), facts={**clip(1).facts, "cuts_s": [0.75]})
        [captions] = Windowed(ServerCaptioner(options(server)), 12.0).caption([long])
        assert {caption.text for caption in captions} == {""}


def test_an_answer_without_end_costs_one_request_and_no_memory():
    def endless(request):
        return "ball " * (1 << 20)

    with ChatServer(endless) as server:
        found = ServerCaptioner(options(server)).caption([clip(1)])
        assert "more than 2 MiB" in found[0][0].finish_reason and not found[0][0].text
        assert len(server.requests) == 1

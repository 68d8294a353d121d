"""The `openai` backend: any server of the OpenAI chat protocol (vLLM, SGLang, LMDeploy, hosted).

Requests run side by side up to a limit, from any number of threads, through one client that lives as long as
its captioner: no clip waits for another, nor for a batch to be full. `Retry-After` is honoured, the body of
the server's error is kept, and a budget stops the run before it is spent. The answer is asked for as JSON by
schema where the server offers it, and checked always. The key comes from the environment, is sent, and is
never logged or stored.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from captioner.backends.bounded import TooLargeError, bounded_client
from captioner.backends.reply import Reply, reply_of, retry_after_s
from captioner.backends.vlm import reduced
from captioner.coca.inputs import spread
from captioner.gates.answers import captions_of
from captioner.options import CaptionerOptions
from captioner.prompts import ANSWER_SCHEMA, make_prompt
from captioner.protocol import BudgetSpentError, Caption, ClipFrames, Provenance, Usage
from captioner.stored import jpeg_as_stored
from manifests.errors import RushesError, UsageError
from media.decode.images import encode_jpeg
from media.writer import webm_bytes

MAX_TRIES = 5
MOST_IN_A_ROW = 12
"""Clips that a server leaves without an answer, none between them with one, before the work stops."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
Result = TypeVar("Result")
Asked = tuple[list[dict[str, Any]], list[int]]
"""The parts of a request, and the frames in it."""
_NO_SCHEMA = ("response_format", "json_schema", "guided", "structured")


class AwayError(RushesError):
    """The server is away, or refuses everything: that is no clip's fault."""


class ClipError(RushesError):
    """One clip got no answer; the others have theirs."""


class ServerCaptioner:
    """A client of one model on one server."""

    name = "openai"
    _AHEAD = 1.5

    def __init__(self, options: CaptionerOptions) -> None:
        if not options.server or not options.model:
            raise UsageError(
                "--server and --model",
                "are needed by captioner openai",
                "For a local vLLM: --server http://127.0.0.1:8000/v1 --model NAME.",
            )
        self.options, self.prompt = options, make_prompt(options.prompt)
        sampling = (
            f"{options.temperature:g},{options.top_p:g},{options.max_tokens},{options.seed},"
            f"{options.max_frames},{options.frame_pixels},{options.video_parts}"
        )
        self.version = (
            f"openai/2:{options.model}:{self.prompt.prompt_id}:{self.prompt.sha256}:{sampling}:"
            f"{','.join(options.kinds)}"
        )
        self.spent = Usage()
        self._takes_schema = True
        self._in_a_row = 0  # clips without an answer
        self.at_once = math.ceil(self._AHEAD * options.concurrency)  # some are made ready while others wait
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def setup(self) -> None:
        """Nothing to load."""

    def _run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a job on the one event loop, which has its own thread, client and limit."""
        with self._starting:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, daemon=True).start()
                try:
                    asyncio.run_coroutine_threadsafe(self._connect(), loop).result()
                except BaseException:
                    job.close()
                    loop.call_soon_threadsafe(loop.stop)
                    raise
                self._loop = loop
        asked = asyncio.run_coroutine_threadsafe(job, self._loop)
        try:
            return asked.result()
        except BaseException:  # interrupted: nobody waits for the answer
            asked.cancel()
            raise

    async def _connect(self) -> None:
        self._gate, self._client = asyncio.Semaphore(self.options.concurrency), self._new_client()

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        """Captions of each clip.

        A clip that got no answer after all tries has one empty caption whose `finish_reason` says why: the
        others keep theirs.

        Raises:
            BudgetSpentError: the budget allowed no request at all. Where it ran out between clips, windows or
                tries, what it did not reach has such an empty caption.
        """
        parts = []
        for clip in clips:
            picked = spread(len(clip.frames), self.options.max_frames)
            parts.append((self._parts(clip, picked), picked))
        return self._run(self._all(clips, parts, attempt))

    def merge(self, clip: ClipFrames, parts: Sequence[str]) -> list[Caption]:
        """One caption of the whole from those of its parts, by the same model; None without an answer."""
        text = self.prompt.merge.format(
            parts="\n".join(f"{index + 1}. {part}" for index, part in enumerate(parts))
        )
        try:
            return self._run(self._one(clip, [{"type": "text", "text": text}], [], 0))
        except (ClipError, BudgetSpentError):
            return []

    async def _all(
        self, clips: Sequence[ClipFrames], asked: Sequence[Asked], attempt: int
    ) -> list[list[Caption]]:
        jobs = []
        for clip, (parts, picked) in zip(clips, asked, strict=True):
            jobs.append(self._one(clip, parts, picked, attempt))
        results = await asyncio.gather(*jobs, return_exceptions=True)
        spent = [result for result in results if isinstance(result, BudgetSpentError)]
        if (
            spent and len(spent) == len(results) and not attempt and not any(clip.context for clip in clips)
        ):  # nothing of these clips is paid for
            raise spent[0]
        found: list[list[Caption]] = []
        for result in results:
            if isinstance(result, BaseException):
                if not isinstance(result, (ClipError, BudgetSpentError)):
                    raise result
                said = (
                    f"{result.subject}: {result.cause}"
                    if isinstance(result, BudgetSpentError)
                    else result.cause
                )
                provenance = Provenance(
                    backend=self.name, model=self.options.model, prompt_id=self.prompt.prompt_id
                )
                found.append(
                    [
                        Caption(
                            kind="dense",
                            text="",
                            source=self.name,
                            provenance=provenance,
                            finish_reason=f"error: {said}"[:2000],
                        )
                    ]
                )
            else:
                found.append(result)
        return found

    def _new_client(self) -> Any:
        from openai import AsyncOpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"
        return AsyncOpenAI(
            base_url=self.options.server,
            api_key=key,
            timeout=self.options.timeout_s,
            max_retries=0,
            http_client=bounded_client(),
        )

    def _parts(self, clip: ClipFrames, picked: Sequence[int]) -> list[dict[str, Any]]:
        start_s = clip.facts.get("start_s", 0.0)
        if self.options.video_parts == "video" and len(picked) > 1:
            frames = [reduced(clip.frames[index], self.options.frame_pixels) for index in picked]
            data = base64.b64encode(webm_bytes(frames, [clip.times_s[index] for index in picked])).decode()
            return [
                {"type": "video_url", "video_url": {"url": f"data:video/webm;base64,{data}"}},
                {"type": "text", "text": self.prompt.ask(clip)},
            ]
        parts: list[dict[str, Any]] = []
        for index in picked:
            if not clip.is_image:
                parts.append({"type": "text", "text": f"Frame at {clip.times_s[index] - start_s:.2f} s:"})
            jpeg = jpeg_as_stored(clip.frames, index, self.options.frame_pixels) or encode_jpeg(
                reduced(clip.frames[index], self.options.frame_pixels), 90
            )
            data = base64.b64encode(jpeg).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
        return [*parts, {"type": "text", "text": self.prompt.ask(clip)}]

    def _request(self, parts: list[dict[str, Any]], attempt: int) -> dict[str, Any]:
        hot = self.options.temperature or (0.7 if attempt else 0.0)
        messages: list[dict[str, Any]] = (
            [{"role": "system", "content": self.prompt.system}] if self.prompt.system else []
        )
        request: dict[str, Any] = {
            "model": self.options.model,
            "messages": [*messages, {"role": "user", "content": parts}],
            "max_tokens": self.options.max_tokens,
            "temperature": hot,
            "top_p": self.options.top_p if hot else 1.0,
            "seed": self.options.seed + 7919 * attempt,
        }
        if self._takes_schema and self.prompt.system:
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "caption", "strict": True, "schema": ANSWER_SCHEMA},
            }
        return request

    def _spend(self) -> None:
        """Count a request in, or stop."""
        options, spent = self.options, self.spent
        tokens = spent.prompt_tokens + spent.output_tokens
        if options.budget_requests and spent.requests >= options.budget_requests:
            raise BudgetSpentError(
                "--budget-requests",
                f"{options.budget_requests} requests are made",
                "Raise it and run the same command again; what is there stays.",
            )
        if options.budget_tokens and tokens >= options.budget_tokens:
            raise BudgetSpentError(
                "--budget-tokens",
                f"{tokens} tokens are spent of {options.budget_tokens}",
                "Raise it and run the same command again.",
            )
        self.spent += Usage(requests=1)

    async def _one(
        self, clip: ClipFrames, parts: list[dict[str, Any]], picked: Sequence[int], attempt: int
    ) -> list[Caption]:
        async with self._gate:
            begin = time.monotonic()
            text, finish, usage = await self._answer(clip, parts, attempt)
        request = self._request([], attempt)
        provenance = Provenance(
            backend=self.name,
            model=self.options.model,
            prompt_id=self.prompt.prompt_id,
            prompt_sha256=self.prompt.sha256,
            seed=request["seed"],
            sampling={key: request[key] for key in ("temperature", "top_p", "max_tokens")},
            frame_indices=tuple(picked),
            frame_times_s=tuple(clip.times_s[index] for index in picked),
        )
        usage += Usage(seconds=time.monotonic() - begin)
        return captions_of(text, clip, self.name, provenance, usage, finish, self.options.kinds, self.prompt)

    async def _answer(
        self, clip: ClipFrames, parts: list[dict[str, Any]], attempt: int
    ) -> tuple[str, str, Usage]:
        """(text, finish reason, cost), asking up to `MAX_TRIES` times.

        Raises:
            ClipError: no answer came, or one that asking again would not mend.
            AwayError: none came for many clips in a row.
        """
        usage, said = Usage(), ""
        for number in range(MAX_TRIES):
            self._spend()
            usage += Usage(requests=1)
            reply = await self._try(self._request(parts, attempt))
            self.spent, usage = self.spent + reply.cost, usage + reply.cost
            if reply.text:
                self._in_a_row = 0
                return reply.text, "length" if reply.is_cut else "stop", usage
            said = reply.error
            if not reply.is_passing:
                break
            if number + 1 < MAX_TRIES and not reply.asks_again_now:
                wait_s = reply.retry_after_s or FIRST_WAIT_S * 2**number
                await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))
        self._in_a_row = self._in_a_row + 1 if reply.is_away else 0
        if self._in_a_row >= MOST_IN_A_ROW:
            raise AwayError(
                f"{self.options.server}",
                f"left {self._in_a_row} clips in a row without an answer: {said}",
                "Look at the server and at OPENAI_API_KEY, then run the same command again.",
            )
        raise ClipError(
            f"clip {clip.clip_id}",
            f"no answer from {self.options.server}: {said}",
            "See the server's log; `rushes retry` asks again.",
        )

    async def _try(self, request: dict[str, Any]) -> Reply:
        """Ask once."""
        import openai

        try:
            # not `chat.completions.create`: checking and copying what is sent costs more than all the rest
            asked = self._client.post("/chat/completions", cast_to=object, body=request)
            answer: Any = await asyncio.wait_for(asked, self.options.timeout_s)  # the client's is for a read
        except openai.APIStatusError as error:
            return self._refusal(error, "response_format" in request)
        except TimeoutError:
            return Reply(error=f"no whole answer within {self.options.timeout_s:g} s", is_away=True)
        except (openai.APIConnectionError, openai.APIResponseValidationError, ValueError) as error:
            # no answer in time, none at all, half a JSON; of one without end there is no less if asked again
            large = error if isinstance(error, TooLargeError) else error.__cause__
            if isinstance(large, TooLargeError):
                return Reply(error=str(large), is_passing=False)
            return Reply(error=f"{type(error).__name__}: {error}", is_away=True)
        try:
            return reply_of(answer)
        except (KeyError, TypeError, AttributeError, IndexError):
            said = f"what answers does not speak the chat protocol: {str(answer)[:200]!r}"
            return Reply(error=said, is_passing=False)

    def _refusal(self, error: Any, has_schema: bool) -> Reply:
        """What a status other than 200 means: ask again without a schema, ask again later, or give up."""
        body, status = error.response.text, error.status_code
        said = f"HTTP {status}: {body[:1000]}"
        if status in {400, 422} and has_schema and any(word in body for word in _NO_SCHEMA):
            # the server has no schemas: ask in words alone, the answer is checked all the same
            self._takes_schema = False
            return Reply(error=said, asks_again_now=True)
        is_passing = status >= 500 or status in {408, 409, 429}
        return Reply(
            error=said,
            is_passing=is_passing,
            is_away=is_passing or status in {401, 403, 404},
            retry_after_s=retry_after_s(error.response.headers),
        )

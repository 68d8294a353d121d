"""Asking a language model of an OpenAI-compatible server a question in text."""

from __future__ import annotations

from collections.abc import Callable

from manifests.errors import RushesError

Ask = Callable[[str], str]
_MOST_TOKENS = 4096
"""Of an answer: room for a model that thinks aloud first."""


def asker(server: str, model: str) -> Ask:
    """A function that asks one model of an OpenAI-compatible server, at temperature 0."""
    import os

    import openai

    client = openai.OpenAI(base_url=server, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=4)

    def ask(text: str) -> str:
        try:
            reply = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": text}],
                temperature=0.0,
                max_tokens=_MOST_TOKENS,
            )
        except openai.OpenAIError as error:
            raise RushesError(server, f"gave no answer: {error}", "See the server's log.") from error
        return reply.choices[0].message.content or ""

    return ask

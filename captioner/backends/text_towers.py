"""Learned text encoders: our captioner's text tower, open_clip's, or one of transformers.

Of transformers, the last hidden states of T5, UMT5, Gemma, Qwen and others.

Every text comes out at its own length: no padding to a common one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.backends.weights import folder_digest, weights_of
from captioner.coca.folder import captioner_folder, read_folder, stage_digest
from captioner.coca.tokenizer import PAD, Tokens
from manifests.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from captioner.language.text_encoder import TextEncoder

BATCH = 64


def pieces(tokenizer: Tokens, text: str, length: int) -> list[list[int]]:
    """A text's token ids with start and end, in pieces of at most `length`, so that nothing is cut off."""
    ids = [tokenizer.start, *tokenizer.encode(text), tokenizer.end]
    return [ids[begin : begin + length] for begin in range(0, len(ids), length)]


class CocaTextEncoder:
    """Token states of the text tower of our captioner's dense fork."""

    name = "coca"

    def __init__(self, model: str) -> None:
        self.path = captioner_folder(model)
        self.folder = read_folder(self.path)
        self.width = self.folder.config.text_width
        self.version = f"coca-text/2:{stage_digest(self.path, 'dense')}"

    def setup(self) -> None:
        from captioner.coca.checkpoint import load_stage

        self.tower = load_stage(self.folder, "dense").text

    def encode(self, texts: list[str]) -> list[Tensor]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        found: list[Tensor] = []
        with torch.no_grad():
            for begin in range(0, len(texts), BATCH):
                rows = [
                    pieces(self.folder.tokenizer, text, self.folder.config.context_length)
                    for text in texts[begin : begin + BATCH]
                ]
                ids = pad_sequence(
                    [torch.tensor(piece) for row in rows for piece in row],
                    batch_first=True,
                    padding_value=PAD,
                )
                states = self.tower.ln_final(self.tower(ids)[1])
                own = iter(
                    state[: int(length)] for state, length in zip(states, (ids != PAD).sum(1), strict=True)
                )
                found += [torch.cat(list(itertools.islice(own, len(row)))) for row in rows]
        return found


_OTHER_WORDS = ("siglip", "mt5", "roberta", "nllb")
"""In the names of towers whose tokens are not CLIP's."""


def _has_other_words(model: str, folder: Path) -> bool:
    """Whether a text tower of open_clip has another tokenizer than CLIP's."""
    config = folder / "open_clip_config.json"
    told = config.read_text(errors="replace") if config.is_file() else model
    return "hf_tokenizer_name" in told or any(name in model.lower() for name in _OTHER_WORDS)


class OpenClipTextEncoder:
    """Token states of an open_clip text tower, behind its last norm."""

    name = "open_clip"

    def __init__(self, model: str) -> None:
        if not model:
            raise UsageError(
                "--text.model",
                "is needed by text encoder open_clip",
                "Give `local-dir:FOLDER`, or NAME or NAME:FILE of weights.",
            )
        self.model = model
        folder = Path(model.removeprefix("local-dir:"))
        file = Path(model.partition(":")[2])
        digest = (
            folder_digest(folder)
            if model.startswith("local-dir:") and folder.is_dir()
            else folder_digest(file)
            if file.is_file()
            else ""
        )
        form = 2 if _has_other_words(model, folder) else 1
        self.version = f"open-clip-text/{form}:{folder.name if digest else model}:{digest}"
        self.width = 0

    def setup(self) -> None:
        import open_clip

        name, _, weights = (
            self.model.partition(":") if not self.model.startswith("local-dir:") else (self.model, "", "")
        )
        model = open_clip.create_model(name, pretrained=weights or None).eval()
        self.tower: Any = model if hasattr(model, "token_embedding") else model.text
        self.tokenizer = open_clip.get_tokenizer(name)
        if not hasattr(self.tower, "token_embedding") or not hasattr(self.tower, "positional_embedding"):
            raise UsageError(
                f"--text.model {self.model}",
                "reads texts by a network of transformers",
                "Give that one: --text.encoder transformers --text.model NAME.",
            )
        is_clips = isinstance(self.tokenizer, open_clip.SimpleTokenizer)
        words = getattr(self.tokenizer, "tokenizer", None)  # of transformers
        self.padding = None if is_clips else getattr(words, "pad_token_id", 0)
        self.is_padded_by_ends = getattr(words, "eos_token_id", None) == self.padding
        self.width = self.tower.token_embedding.weight.shape[1]

    def encode(self, texts: list[str]) -> list[Tensor]:
        import torch

        found: list[Tensor] = []
        with torch.no_grad():
            for begin in range(0, len(texts), BATCH):
                ids = self.tokenizer(texts[begin : begin + BATCH])
                states = self._states(ids)
                found += [
                    row[: int(length)].clone() for row, length in zip(states, self._lengths(ids), strict=True)
                ]
        return found

    def _lengths(self, ids: Tensor) -> Tensor:
        """Tokens [B] of each text, its end included."""
        if self.padding is None:
            return ids.argmax(1) + 1  # CLIP's end token has the highest id
        own = (ids != self.padding).sum(1) + self.is_padded_by_ends  # as SigLIP's: the first one is the end
        return own.clamp(1, ids.shape[1])

    def _states(self, ids: Tensor) -> Tensor:
        tower = self.tower
        x = tower.token_embedding(ids) + tower.positional_embedding[: ids.shape[1]]
        mask = tower.attn_mask
        x = tower.transformer(x, attn_mask=mask[: ids.shape[1], : ids.shape[1]] if mask is not None else None)
        return tower.ln_final(x)


class TransformersTextEncoder:
    """Last hidden states of a text model; of an encoder-decoder, its encoder's."""

    name = "transformers"
    max_tokens = 512

    def __init__(self, model: str) -> None:
        if not model:
            raise UsageError(
                "--text.model",
                "is needed by text encoder transformers",
                "Give a folder or a hub id, such as google/umt5-xxl.",
            )
        self.weights = weights_of(model)
        self.version = f"transformers-text/1:{self.weights.label}:{self.weights.digest}"
        self.width = 0

    def setup(self) -> None:
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        place = self.weights.place
        known = {"revision": self.weights.revision, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(place, **known)
        kind = (
            AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel
        )
        self.tokenizer = AutoTokenizer.from_pretrained(place, **known)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        self.model = kind.from_pretrained(place, dtype="auto", **known).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        text = config.get_text_config()
        self.width = getattr(text, "hidden_size", None) or text.d_model

    def encode(self, texts: list[str]) -> list[Tensor]:
        import torch

        found: list[Tensor] = []
        with torch.no_grad():
            for begin in range(0, len(texts), BATCH):
                inputs = self.tokenizer(
                    texts[begin : begin + BATCH],
                    padding=True,
                    truncation=True,
                    max_length=self.max_tokens,
                    return_tensors="pt",
                )
                inputs = inputs.to(self.model.device)
                states = (
                    self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                    .last_hidden_state.float()
                    .cpu()
                )
                lengths = inputs["attention_mask"].sum(1).clamp_min(1)
                found += [row[: int(length)].clone() for row, length in zip(states, lengths, strict=True)]
        return found


def make(name: str, model: str) -> TextEncoder:
    """The encoder of that name over that model."""
    kinds: dict[str, type[Any]] = {
        "coca": CocaTextEncoder,
        "open_clip": OpenClipTextEncoder,
        "transformers": TransformersTextEncoder,
    }
    encoder: TextEncoder = kinds[name](model)
    return encoder

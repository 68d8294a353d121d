"""A video CoCa on open_clip's modules: a frame ViT that sees changes, and one pooler over frames.

Shape legend: B clips, T frames, H W pixels, n patches of a frame (g_h x g_w), D vision width, Q pooled
tokens, E embedding, L text tokens, V vocabulary.

Sources: CoCa (Yu et al. 2022, arXiv:2205.01917); frames flattened into its pooler as in VideoCoCa (Yan et al.
2022, arXiv:2212.04979). Flattened frames alone guess motion at chance; a patch embedding of the frame
difference added to each frame's patches tells it. With that embedding and the temporal positions at zero, one
frame gives exactly what open_clip's image CoCa gives, so its released weights load (`load_open_clip`).

From scratch (`stem="conv"`) little of that can be learnt from a few thousand clips. There the clip is its
middle frame, seen through convolutions, and how that moved, by matching it with the first and the last
(stems.py); the decoder attends to the places themselves, as in Show, Attend and Tell (Xu et al. 2015,
arXiv:1502.03044), and each word is also read off what the stems see, by a linear map (`read_off`).

What open_clip 3.3 leaves undone is done here: its text projection is never initialised, and the shift of the
labels is ours (it moved between releases).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.coca.config import CocaConfig
from captioner.coca.stems import ConvStem, MatchStem, waves
from manifests.errors import UsageError

EXTRA = ("temporal", "difference.")


class VideoCoCa(CoCa):
    """CoCa over clips [B, T, 3, H, W]; H and W are multiples of the patch, of any aspect.

    `forward` gives the pooled embeddings, both normalised to length 1, and the logits of the next token at
    each position.
    """

    def __init__(self, config: CocaConfig) -> None:
        super().__init__(**config.open_clip_arguments(), pad_id=0)
        self.config = config
        width, visual = config.vision_width, self.visual
        self.difference: nn.Module
        self.temporal = nn.Parameter(torch.zeros(config.max_frames, width))
        if config.stem == "conv":
            visual.conv1 = ConvStem(3, width, config.patch_px)
            self.difference = MatchStem(width, config.patch_px)
            self.glimpse = nn.Linear(2 * width, config.text_width)
            self.words = nn.Linear(4 * width, config.vocab_size)
            self._start_from_scratch()
        else:
            self.difference = nn.Conv2d(3, width, config.patch_px, config.patch_px, bias=False)
            nn.init.zeros_(self.difference.weight)
        nn.init.normal_(
            self.text_decoder.text_projection, std=config.text_width**-0.5
        )  # open_clip leaves memory as it found it
        if not config.is_legacy:
            self.text.correct_cls_mask = True

    @torch.no_grad()
    def _start_from_scratch(self) -> None:
        """Initialise a small model so that positions matter and the decoder attends from the first step.

        With open_clip's small random tables and flat attention a small thing is lost in means over the whole
        clip, and a small model stays there.
        """
        config, visual, decoder = self.config, self.visual, self.text_decoder
        side, width = config.image_px // config.patch_px, config.text_width
        visual.positional_embedding[1:] = 0.7 * waves(side, side, config.vision_width)
        for block in decoder.cross_attn:
            nn.init.orthogonal_(block.attn.in_proj_weight[:width])
            block.attn.in_proj_weight[width : 2 * width] = block.attn.in_proj_weight[:width]
        nn.init.zeros_(self.words.weight)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table [1 + n, D] for a grid of patches, bicubic if it is not the square one."""
        table, side = self.visual.positional_embedding, self.config.image_px // self.config.patch_px
        if grid == (side, side):
            return table
        square = table[1:].view(1, side, side, -1).permute(0, 3, 1, 2)
        read = F.interpolate(square, grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], read[0].flatten(1).t()])

    def frame_tokens(self, x: Tensor) -> Tensor:
        """[B, T, 3, H, W] to tokens [B, T, 1 + n, D] of the frame ViT, class token first."""
        frames = x.shape[1]
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        seen = self.difference(change.flatten(0, 1)) if frames > 1 else None
        return (
            self._vit(self.visual.conv1(x.flatten(0, 1)), seen).unflatten(0, (len(x), frames))
            + self.temporal[:frames, None]
        )

    def _vit(self, patches: Tensor, seen: Tensor | None) -> Tensor:
        """Patches [B, D, g_h, g_w], and what is seen of change there, to tokens [B, 1 + n, D]."""
        return self.visual.transformer(self._placed(patches, seen))

    def _placed(self, patches: Tensor, seen: Tensor | None) -> Tensor:
        """The transformer's input: class token and patches with positions and what changed there."""
        visual = self.visual
        h = patches.flatten(2).transpose(1, 2)
        h = torch.cat([visual.class_embedding.expand(len(h), 1, -1), h], dim=1) + self.positions(
            (patches.shape[2], patches.shape[3])
        )
        h = visual.ln_pre(h)
        if seen is not None:
            h = torch.cat([h[:, :1], h[:, 1:] + seen.flatten(2).transpose(1, 2)], dim=1)
        return h

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """open_clip's (embeddings [B, E], states [B, L, D]) of text [B, L].

        From scratch, the class token is at the last place of the context and not at L, so that a text's
        embedding does not depend on the padding of its batch.
        """
        if self.config.is_legacy:
            return super()._encode_text(text, normalize)
        tower = self.text
        x, mask = tower._embeds(text)
        places = tower.positional_embedding
        x = torch.cat([x[:, :-1], x[:, -1:] + (places[-1] - places[text.shape[1]])], dim=1)
        x = tower.transformer(x, attn_mask=mask)
        pooled = tower.ln_final(x[:, -1]) @ tower.text_projection
        return F.normalize(pooled, dim=-1) if normalize else pooled, x[:, :-1]

    def stems(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the middle frame of x [B, T, 3, H, W], and of its motion: [B, D, g_h, g_w] each.

        Motion since the first frame and until the last.
        """
        middle = x[:, x.shape[1] // 2]
        what = self.visual.conv1(middle)
        if x.shape[1] == 1:
            return what, torch.zeros_like(what)
        return what, self.difference(x[:, 0], middle, x[:, -1])

    def encode_clip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embedding [B, E] and the tokens for the decoder: [B, Q - 1, E], or from scratch [B, n, 3 D].

        From scratch, each place has what the stems see there.
        """
        if self.config.stem == "patch":
            pooled, tokens = self.visual._pool(self.frame_tokens(x).flatten(1, 2))
        else:
            what, how = self.stems(x)
            h = self._vit(what, how)
            pooled = self.visual._pool(h)[0]
            tokens = torch.cat([h[:, 1:], places(what, how)], dim=-1)
        return F.normalize(pooled @ self.visual.proj, dim=-1), tokens

    def with_glimpse(self, tokens: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder takes: tokens to attend to and text states [B, L, D].

        From scratch, a glimpse of the clip is added to each state.
        """
        if self.config.stem == "patch":
            return tokens, states
        memory = tokens[..., : self.config.vision_width]
        return memory, states + self.glimpse(torch.cat([memory.amax(1), memory.mean(1)], dim=-1))[:, None]

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """[B, L, V] of decoded states [B, L, D], before the last norm."""
        decoder = self.text_decoder
        states = decoder.ln_final(states)
        out = states @ decoder.text_projection
        return out if self.config.stem == "patch" else out + self.read_off(tokens)

    def read_off(self, tokens: Tensor) -> Tensor:
        """[B, 1, V]: words by a linear map of the maxima and means of what the stems see."""
        seen = tokens[..., -2 * self.config.vision_width :]
        return self.words(torch.cat([seen.amax(1), seen.mean(1)], dim=-1))[:, None]

    def decode(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Logits [B, L, V] of what follows each text state [B, L, D]."""
        if self.config.stem == "patch":
            return self.text_decoder(tokens, states)
        decoder, length = self.text_decoder, states.shape[1]
        memory, states = self.with_glimpse(tokens, states)
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            states = cross(
                block(states, attn_mask=decoder.attn_mask[:length, :length]), k_x=memory, v_x=memory
            )
        return self.logits(states, tokens)

    def short_logits(self, x: Tensor, text: Tensor) -> Tensor:
        """Logits [B, L - 1, V] of all tokens but the first, each from the token before it, its place in the
        text and the places of the clip that it attends to, as the stems see them.

        The model without the layers between: no text but one token, no transformer over the clip. "red" finds
        the red place, and what stands there is the next word, so this teaches the stems what labels would, of
        each of several things, at a third of the whole model's cost. A log-bilinear model (Kiros et al. 2014,
        Multimodal Neural Language Models) with the attention of Show, Attend and Tell.
        """
        what, how = self.stems(x)
        memory = self._placed(what, how)[:, 1:]
        states = (self.text.token_embedding(text) + self.text.positional_embedding[: text.shape[1]])[:, :-1]
        for cross in self.text_decoder.cross_attn:
            states = cross(states, k_x=memory, v_x=memory)
        return self.logits(states, places(what, how))

    def embeddings(self, clips: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of clips [B, T, 3, H, W] and of texts [B, L], [B, E] each, of length 1."""
        return self.encode_clip(clips)[0], self._encode_text(text)[0]

    def forward(
        self, clips: Tensor, text: Tensor, with_contrast: bool = True
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # type: ignore[override]
        """clips: [B, T, 3, H, W]; text: [B, L].

        Returns clip embeddings [B, E], text embeddings [B, E] or None, logits [B, L - 1, V] of all tokens but
        the first.
        """
        embedding, tokens = self.encode_clip(clips)
        text_embedding, states = self._encode_text(text)
        return embedding, text_embedding if with_contrast else None, self.decode(tokens, states[:, :-1])


def places(what: Tensor, how: Tensor) -> Tensor:
    """[B, n, 2 D]: what the two stems see at each place."""
    return torch.cat([what, how], dim=1).flatten(2).transpose(1, 2)


def load_open_clip(name: str, weights: Path) -> VideoCoCa:
    """A video CoCa from an image CoCa of open_clip; what that lacks starts at zero.

    It lacks temporal positions and the difference embedding.

    Args:
        name: open_clip's configuration.
        weights: its state dict, as safetensors or as a torch file (read with `weights_only`).

    Raises:
        UsageError: the file does not fit the configuration.
    """
    from captioner.coca.config import from_open_clip

    try:
        found: dict = (
            load_file(weights)
            if weights.suffix == ".safetensors"
            else torch.load(weights, map_location="cpu", weights_only=True)
        )
        found = found.get("state_dict", found)
    except OSError:
        raise
    except Exception as error:  # of readers of files that are something else
        why = " ".join(str(error).split())[:200]
        raise UsageError(str(weights), f"is no file of weights ({type(error).__name__}: {why})") from error
    state = {key.removeprefix("module."): value for key, value in found.items()}
    model = VideoCoCa(from_open_clip(name))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith(EXTRA)]
    if missing or unexpected:
        raise UsageError(
            str(weights), f"does not fit {name}: lacks {missing[:3]}, has {unexpected[:3]} too many"
        )
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

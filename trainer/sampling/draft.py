"""A request as the solver and the model see it: tokens, their levels, and the predictions it needs.

Shape legend: n tokens, P values of a token, t latent frames, K steps, L text tokens, Dt text width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.data.patches import padded, patchify, unpatchify
from trainer.data.samples import Size
from trainer.model.flow import shift_of
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Start
from trainer.sampling.guidance import Branch, Guidance
from trainer.sampling.solvers import DEFAULT_SOLVER, Solver, coefficients, levels, sigma_grid
from trainer.sampling.trained import TrainedModel


@dataclass(frozen=True)
class Prompt:
    """A text and where it counts."""

    text: Tensor | None  # [L, Dt]; None for no text
    weight: Tensor | None = None  # [t] of each latent frame; None: 1 everywhere


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sample to make.

    Attributes:
        prompts: texts whose predictions are added up by weight; the weights of a latent frame sum to 1.
        negative: text [L, Dt] to lead away from; None for no text.
        start: what is given; None for nothing.
        is_loop: the last latent lies before the first one too.
        edited_from: the prompt of what is given, for FlowEdit: the sample moves from it along the difference
            between the predictions for `prompts` and for this one; None: it is sampled from noise.
        seed: of the noise.
    """

    canvas: Canvas
    prompts: tuple[Prompt, ...] = (Prompt(None),)
    negative: Tensor | None = None
    start: Start | None = None
    is_loop: bool = False
    edited_from: Prompt | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are made.

    Attributes:
        condition_sigma: noise level of kept tokens as the model sees them; None: half of the highest one it
            was trained with. They are returned without noise.
    """

    steps: int = 24
    solver: Solver = DEFAULT_SOLVER
    guidance: Guidance = field(default_factory=Guidance)
    condition_sigma: float | None = None


Key = tuple[str, Branch, int]
"""What a prediction is for: target or source of an edit, what the model is shown, and which prompt."""


@dataclass(frozen=True)
class Piece:
    """One sequence for the model."""

    key: Key
    x: Tensor  # [n, P]
    sigma: Tensor  # [n]
    known: Tensor  # [n] bool
    coords: Tensor  # [n, 4]
    text: Tensor  # [L, Dt]

    def rolled(self, tokens: int) -> Piece:
        """The same with the tokens moved on by a number of places, but not the coordinates."""
        moved = {name: getattr(self, name).roll(tokens, 0) for name in ("x", "sigma", "known")}
        return replace(self, **moved)


class Draft:
    """A request on its way from noise to data.

    Attributes:
        x: [n, P] where each token begins.
        levels: [K + 1, n] its noise level at each step.
    """

    def __init__(self, model: TrainedModel, request: Request, how: Sampling) -> None:
        if request.edited_from and (model.flow.path != "linear" or request.start is None):
            raise UsageError("--from-prompt", "needs something to edit and a model of rectified flow")
        self.request, self.guidance, self.model = request, how.guidance, model
        self.size: Size = request.canvas.latent_size(model.factors)
        self.generator = torch.Generator().manual_seed(request.seed)
        noise = torch.randn((len(model.mean), *self.size), generator=self.generator)
        self.noise, self.grid = patchify(noise, model.patch)
        self.coords, self.frame = request.canvas.coordinates(self.grid, model.patch, model.factors)
        self.clean, levels_of = torch.zeros_like(self.noise), torch.ones_like(self.noise)
        if request.start is not None:
            latent = (request.start.latent - self._mean) / self._std
            self.clean = patchify(padded(latent, model.patch), model.patch)[0]
            level = request.start.level.expand_as(latent)
            levels_of = patchify(padded(level, model.patch), model.patch)[0]
        start = levels_of.amax(1)
        self.is_kept = start == 0
        self.is_part_kept = (levels_of == 0) & ~self.is_kept[:, None]
        self.levels = levels(self._sigmas(how.steps, float(start.max())), start)
        keep, add = coefficients(start, model.flow.path)
        self.x = self.clean if request.edited_from else keep * self.clean + add * self.noise
        self.x = torch.where(self.is_kept[:, None], self.clean, self.x)
        seen = how.condition_sigma
        self.kept_sigma = torch.tensor(model.flow.condition_sigma / 2 if seen is None else seen)
        self.calls = 0

    @property
    def _mean(self) -> Tensor:
        return self.model.mean.view(-1, 1, 1, 1)

    @property
    def _std(self) -> Tensor:
        return self.model.std.view(-1, 1, 1, 1)

    def _sigmas(self, steps: int, start: float) -> Tensor:
        """[K + 1] levels from `start` to 0; all 0 where everything is kept.

        Shifted up by shape as in training, but not down: few steps near noise lose variance.
        """
        found = sigma_grid(steps, max(1.0, shift_of(self.grid, self.model.flow)), start)
        return found if len(found) > 1 else found.expand(steps + 1)

    def latent(self, x: Tensor) -> Tensor:
        """Tokens [n, P] as a latent [C, t, h, w] in the VAE's units, kept cells as they were given."""
        latent = unpatchify(x, self.grid, self.model.patch, self.size) * self._std + self._mean
        start = self.request.start
        return latent if start is None else torch.where(start.level == 0, start.latent, latent)

    def pieces(self, x: Tensor, sigma: Tensor) -> list[Piece]:
        """The sequences that the model is to read for tokens x [n, P] at levels sigma [n]."""
        self.calls += 1
        self.moves = sigma > 0
        if self.request.edited_from is None:
            found = self._branches("target", x, sigma, self.request.prompts)
        else:
            noise = torch.randn(self.noise.shape, generator=self.generator)
            source = torch.lerp(self.clean, noise, sigma[:, None])
            target = x + source - self.clean
            found = self._branches("target", target, sigma, self.request.prompts)
            found += self._branches("source", source, sigma, (self.request.edited_from,))
        return [piece.rolled(self._roll()) for piece in found] if self.request.is_loop else found

    def combine(self, found: dict[Key, Tensor]) -> Tensor:
        """The prediction [n, P] of all that the model said of the pieces."""
        if self.request.is_loop:
            found = {key: value.roll(-self._roll(), 0) for key, value in found.items()}
        target = self._guided("target", found, self.request.prompts)
        if self.request.edited_from is None:
            return target
        return target - self._guided("source", found, (self.request.edited_from,))

    def _branches(self, of: str, x: Tensor, sigma: Tensor, prompts: tuple[Prompt, ...]) -> list[Piece]:
        highest = sigma.max()
        seen, level = self._with_kept(self._with_part_kept(x, sigma), sigma, self.kept_sigma)
        plain = Piece((of, Branch.FULL, 0), seen, level, self.is_kept, self.coords, self._words(None))
        found = [
            replace(plain, key=(of, Branch.FULL, index), text=self._words(prompt.text))
            for index, prompt in enumerate(prompts)
        ]
        branches = self.guidance.branches(float(highest), bool(self.is_kept.any()))
        without = replace(plain, text=self._words(self.request.negative))
        if Branch.CONDITION in branches:
            found.append(replace(without, key=(of, Branch.CONDITION, 0)))
        if Branch.NONE in branches:
            hidden, level = self._with_kept(x, sigma, highest)
            known = torch.zeros_like(self.is_kept)
            found.append(replace(without, key=(of, Branch.NONE, 0), x=hidden, sigma=level, known=known))
        return found

    def _with_part_kept(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Tokens, with what is kept of a part of them at the noise level of the whole."""
        keep, add = coefficients(sigma, self.model.flow.path)
        return torch.where(self.is_part_kept, keep * self.clean + add * self.noise, x)

    def _with_kept(self, x: Tensor, sigma: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and their levels, the kept ones with noise of a level."""
        keep, add = coefficients(level[None], self.model.flow.path)
        kept = self.is_kept[:, None]
        return torch.where(kept, keep * self.clean + add * self.noise, x), torch.where(
            self.is_kept, level, sigma
        )

    def _guided(self, of: str, found: dict[Key, Tensor], prompts: tuple[Prompt, ...]) -> Tensor:
        full = sum(
            found[of, Branch.FULL, index] * self._weight(prompt, found[of, Branch.FULL, index])
            for index, prompt in enumerate(prompts)
        )
        branches = {branch: value for (part, branch, _), value in found.items() if part == of}
        return self.guidance.combine(branches | {Branch.FULL: torch.as_tensor(full)}, self.moves)

    def _weight(self, prompt: Prompt, like: Tensor) -> Tensor | float:
        """[n, 1] of each token."""
        if prompt.weight is None:
            return 1.0
        layers = padded(prompt.weight.view(1, -1, 1, 1).expand(1, *self.size), self.model.patch)
        return patchify(layers, self.model.patch)[0].mean(1, keepdim=True).to(like)

    def _words(self, text: Tensor | None) -> Tensor:
        return torch.zeros(1, self.model.text_width) if text is None else text.float()

    def _roll(self) -> int:
        """Places by which a loop is moved on for this call of the model: any latent may come first."""
        latents, frame = self.grid[0], self.grid[1] * self.grid[2]
        stride = max(step for step in range(1, latents // 2 + 2) if math.gcd(step, latents) == 1)
        return (self.calls * stride) % latents * frame

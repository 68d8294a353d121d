"""What an arm has learned: its loss on held-out films, and what the reader sees in its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from experiments.arms import Arm, Budget, trained
from experiments.films import ASKED, Draw, clips, questions
from manifests.cli import say
from trainer.config import FitConfig
from trainer.data.tars.streaming import StreamReader, catalog_of
from trainer.judging.accuracy import Answer, Score, score
from trainer.judging.cases import UNSEEN_PX, Case
from trainer.judging.run import judge
from trainer.reports.validation import evaluate, validation_packs
from trainer.sampling.draft import Sampling
from trainer.sampling.guidance import Guidance
from trainer.sampling.trained import TrainedModel
from trainer.state.parallel import join
from vae.checkpoint import load_vae
from vae.protocol import VAE
from world.film import SIZES_PX

Where = Callable[[Case], bool]
"""Which questions."""
HOW = Sampling(steps=24, guidance=Guidance(text=3.0))
READ = ("background", "light", "count", "colour", "shape", "size", "texture", "motion", "direction", "camera")
"""Attributes that are told; titles are in one film of eight, too few to tell arms apart."""


@dataclass(frozen=True)
class Outcome:
    """What was found of one arm.

    Attributes:
        losses: on held-out films at shapes that were trained on and at others.
        answers: to all questions; `renders`: what is read of the true films, the most there is to reach.
    """

    arm: Arm
    losses: dict[str, float]
    answers: Sequence[Answer]
    renders: Sequence[Answer]

    def right(self, name: str, where: Where) -> Score:
        """The share of questions whose attribute is as asked for; `all` is the mean over attributes."""
        own = [answer for answer in self.answers if where(answer.case)]
        if name == "all":
            each = [[answer.right[key] for key in READ if key in answer.right] for answer in own]
            return score([sum(values) / len(values) for values in each])
        return score([answer.right[name] for answer in own if name in answer.right])

    def all_right(self, where: Where) -> dict[str, Score]:
        """`right` of the mean and of each attribute that is told."""
        return {name: self.right(name, where) for name in ("all", *READ)}

    def cut_off(self, where: Where) -> Score:
        """The share of samples with a subject whose subject the border cuts off."""
        return _cut_off(self.answers, where)

    def cut_off_truly(self, where: Where) -> Score:
        """The same of true films."""
        return _cut_off(self.renders, where)


def _cut_off(answers: Sequence[Answer], where: Where) -> Score:
    return score([own.is_cut for own in answers if own.is_cut is not None and where(own.case)])


def ask(arms: Sequence[Arm], budget: Budget) -> list[Outcome]:
    """Train each arm, or read it where it is trained, and ask it."""
    vae, draw = load_vae(budget.vae), Draw(budget.prompts // 2, budget.scale, budget.stills, seed=budget.seed)
    asked, found = questions(draw), []
    for arm in arms:
        model = trained(arm, budget)
        judged = judge(model, vae, asked, HOW, batch_tokens=8192, seed=budget.seed)
        outcome = Outcome(
            arm, losses(model, vae, draw, budget), judged.answers["samples"], judged.answers["true renders"]
        )
        say(f"{arm.name}: {outcome.right('all', lambda case: True).value:.3f} of what was asked for is there")
        found.append(outcome)
    return found


def losses(model: TrainedModel, vae: VAE, draw: Draw, budget: Budget) -> dict[str, float]:
    """Loss on held-out films with their dense captions, normalised as the model's own."""
    ranks, found = join(), {}
    for name, shapes in (("seen shapes", SIZES_PX), ("unseen shapes", UNSEEN_PX)):
        data = clips(draw, ASKED, shapes, vae, budget.work)
        config = FitConfig(
            model=model.dit.config, flow=model.flow, tokens=budget.tokens, captions={"dense": 1.0}
        )
        catalog = replace(catalog_of(data, ""), mean=model.mean.tolist(), std=model.std.tolist())
        reader = StreamReader(catalog, config)
        packs = validation_packs(reader, [reader.hold(clip) for clip in data], ranks)
        found[name] = evaluate(model.dit, packs, model.flow, ranks)["all"]["loss"]
    return found

"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) by `peft`: few weights are trained.

The exported model has them added to the weights they adapt, so it samples like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from manifests.errors import UsageError

TARGETS = ("qkv", "out", "cross_q", "cross_kv", "cross_out", "up", "down")
"""Linear layers of a block that are adapted."""


def adapt(model: nn.Module, rank: int, fresh: Sequence[str] = ()) -> None:
    """Put adapters of a rank beside the blocks' linear layers and freeze all else.

    Args:
        fresh: beginnings of the names of weights that began anew, which are trained whole.

    Raises:
        UsageError: `peft` is not installed, or the rank is more than any of the layers has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("--lora-rank", "needs peft", "Install it: pip install 'rushes[lora]'.") from error
    layers = "|".join(TARGETS)
    shapes = [layer.weight.shape for name, layer in model.named_modules() if _is_target(name, layer)]
    if rank > (most := max((min(shape) for shape in shapes), default=rank)):
        raise UsageError(
            f"--lora-rank {rank}", f"is more than the {most} of the whole matrices", "16 is a usual one."
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=rf"blocks\.\d+\.(?:{layers})")
    is_meta = next(model.parameters()).is_meta
    inject_adapter_in_model(config, model, low_cpu_mem_usage=is_meta)
    for name, weight in model.named_parameters():
        if any(f"{name.replace('base_layer.', '')}.".startswith(f"{part}.") for part in fresh):
            weight.requires_grad_(True)


def _is_target(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and name.rpartition(".")[2] in TARGETS


def is_adapter(name: str) -> bool:
    """Whether a weight's name is that of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def merged(weights: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Weights by their plain names, each with its adapter added: W + B A, for a scale of 1."""
    found = {name: value for name, value in weights.items() if not is_adapter(name)}
    if rank:
        for name, down in weights.items():
            if ".lora_A." in name:
                layer = name.partition(".lora_A.")[0]
                up = weights[name.replace(".lora_A.", ".lora_B.")]
                whole = found[f"{layer}.weight"]
                found[f"{layer}.weight"] = (whole.double() + up.double() @ down.double()).to(whole.dtype)
    return found

"""Kernels are used where they give what the oracle gives; others cost a line and speed, not a run."""

import pytest
import torch

from trainer.model import routes
from trainer.model.routes import _is_usable, checked_route, fault

CPU = torch.device("cpu")


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(routes, "say", lines.append)
    _is_usable.cache_clear()
    yield lines
    _is_usable.cache_clear()


def test_the_oracle_is_asked_here_too_and_a_wrong_kernel_is_found(monkeypatch):
    assert fault(CPU, 2, 8) == ""
    real = routes.attend_routed
    monkeypatch.setattr(routes, "attend_routed", lambda *of: real(*of) * 1.5)
    assert "differs from the oracle" in fault(CPU, 2, 8)

    def broken(*_):
        raise RuntimeError("no kernel image\nlong trace")

    monkeypatch.setattr(routes, "attend_routed", broken)
    assert fault(CPU, 2, 8) == "no kernel image"


def test_a_cpu_has_no_routes():
    assert checked_route(CPU, 2, 8, 96) is None


class Registry:
    """Torch's registry of implementations, in small."""

    def __init__(self, known):
        self.known, self.active = known, []

    def list_flash_attention_impls(self):
        return self.known

    def activate_flash_attention_impl(self, name):
        if name == "FA4":
            raise RuntimeError("needs an SM100")
        self.active.append(name)

    def restore_flash_attention_impl(self, _raise_warn=True):
        self.active.append("default")


@pytest.mark.parametrize("is_right", [True, False])
def test_an_installed_implementation_is_taken_if_it_works_and_is_right(monkeypatch, said, is_right):
    registry = Registry(["FA3", "FA4"])
    monkeypatch.setattr(torch.nn, "attention", registry)
    monkeypatch.setattr(routes, "_is_there", lambda module: True)
    monkeypatch.setattr(routes, "is_varlen", lambda dtype: True)
    monkeypatch.setattr(
        routes, "fault", lambda *_: "" if is_right or registry.active[-1] == "default" else "differs"
    )
    assert _is_usable(CPU, 2, 8)
    assert registry.active == (["FA3"] if is_right else ["FA3", "default"])
    assert "needs an SM100" in said[0] and ("by FA3" in said[1] if is_right else "not used" in said[1])


def test_nothing_is_tried_that_is_not_installed(monkeypatch, said):
    registry = Registry(["FA3", "FA4"])
    monkeypatch.setattr(torch.nn, "attention", registry)
    monkeypatch.setattr(routes, "is_varlen", lambda dtype: True)
    monkeypatch.setattr(routes, "fault", lambda *_: "differs")
    assert not _is_usable(CPU, 2, 8) and not registry.active and "torch's own call is" in said[0]

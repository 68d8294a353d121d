import torch

from trainer.run import slow_ranks
from trainer.run.slow_ranks import name_slow, own_s, slow_ones
from trainer.state.parallel import Ranks


class Told(Ranks):
    """Four processes of which the third takes long."""

    def gather(self, number):
        return [1.0, 1.1, 2.0, 0.9]


def test_a_process_that_takes_longer_for_the_same_work_names_itself(monkeypatch):
    assert slow_ones([1.0, 1.1, 0.9, 2.0]) == {3: 2.0 / 1.05}
    assert own_s(torch.device("cpu")) > 0
    said = []
    monkeypatch.setattr(slow_ranks, "say", said.append)
    for rank in range(4):
        name_slow(Told(rank, 4, torch.device("cpu")))
    [line] = said
    assert "process 2" in line and "1.90 times" in line

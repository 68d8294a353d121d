"""The watcher: what it counts and shows does not depend on whether the log can be written."""

import time

from manifests.runs import events
from manifests.runs.events import EventLog
from manifests.store import storage
from pipeline.engine import watcher as watchers


class NoGauges:
    def __init__(self, run_id):
        pass

    def show(self, pace):
        pass


def committed(shard):
    account = {"num_in": 3, "num_kept": 3, "num_dropped": 0, "num_failed": 0}
    return {"event": "committed", "stage": "text", "shard": shard, "text": "", "seconds": 1.0} | {
        "time_s": time.time(),
        **account,
    }


def watcher_of(dataset, monkeypatch, batches):
    class Hub:
        class drain:  # noqa: N801 - as Ray's handles
            remote = staticmethod(lambda: batches.pop(0) if batches else [])

    monkeypatch.setattr(watchers, "Gauges", NoGauges)
    monkeypatch.setattr(watchers.ray, "get", lambda found: found)
    return watchers.Watcher(Hub, EventLog(dataset, "run-1"), {0: 10.0, 1: 20.0}, {("text", 0), ("text", 1)})


def test_a_log_that_cannot_be_written_ends_no_run_and_is_told_once(copy, monkeypatch, capsys):
    watcher = watcher_of(copy, monkeypatch, [[committed(0)], [committed(1)]])
    monkeypatch.setattr(
        EventLog, "write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    watcher.collect()
    watcher.collect()
    assert watcher.accounts["text"].num_kept == 6
    assert capsys.readouterr().err.count("the run goes on") == 1


def test_on_an_object_store_the_log_goes_up_every_few_seconds_and_at_the_end(copy, monkeypatch):
    sent = []
    monkeypatch.setattr(storage, "is_local", lambda _: False)
    monkeypatch.setattr(events.storage, "write_bytes", lambda _, path, data: sent.append(data))
    log = EventLog(copy, "run-1")
    for number in range(50):
        log.write("committed", str(number), "text", number, seconds=1.0)
        log.flush()
    assert len(sent) == 1
    log.flush(is_last=True)
    log.flush(is_last=True)
    assert len(sent) == 2 and sent[-1].count(b"\n") == 50

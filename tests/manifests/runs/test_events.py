"""A run's log on a store that cannot append: full pieces are not written again, and readers see all."""

from __future__ import annotations

from dashboard.live import Tail
from manifests.layout import Dataset
from manifests.runs import events
from manifests.runs.events import EventLog, read_events
from manifests.store import storage


def test_a_full_piece_is_followed_by_another(tmp_path, monkeypatch):
    dataset, written = Dataset.create(str(tmp_path / "ds")), []
    for module in ("manifests.runs.events", "dashboard.live"):
        monkeypatch.setattr(f"{module}.PIECE_BYTES", 2000)
    monkeypatch.setattr(storage, "is_local", lambda filesystem: False)
    log, tail = EventLog(dataset, "20260101-000000-000000"), Tail(dataset)
    (tmp_path / "ds" / "runs" / log.run_id).mkdir(parents=True)
    (tmp_path / "ds" / "runs" / log.run_id / "run.json").write_text("{}")
    monkeypatch.setattr(
        events.storage, "write_bytes", lambda filesystem, path, data: _put(written, path, data)
    )
    seen = 0
    for number in range(60):
        log.write("committed", f"number {number}", "preview", number)
        log.flush(is_last=True)
        tail._looked_at_s = -1e9
        tail.look()
        assert len(tail.recent) == number + 1
        seen += 1
    late = Tail(dataset)
    late.look()
    assert len(late.recent) == seen  # all pieces at the first look
    names = sorted({name for name, _ in written})
    assert len(names) > 3 and names[0] == "events-0001.jsonl" and names[-1] == "events.jsonl"
    assert max(size for _, size in written) < 2 * 2000
    assert [row["text"] for row in read_events(dataset, log.run_id)] == [f"number {n}" for n in range(seen)]
    first = tmp_path / "ds" / "runs" / log.run_id / "events.jsonl"
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:3]))  # a takedown has made it shorter
    texts = [f"number {n}" for n in range(seen) if n < 3 or n >= len(lines)]
    assert [row["text"] for row in read_events(dataset, log.run_id)] == texts
    late = Tail(dataset)
    for _ in range(len(names) + 1):
        late._looked_at_s = -1e9
        late.look()
    assert len(late.recent) == len(texts)


def _put(written, path, data):
    written.append((path.rpartition("/")[2], len(data)))
    with open(path, "wb") as file:
        file.write(data)


def test_a_run_after_one_of_the_future_is_the_last(tmp_path, capsys):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for last in ("20300101-000000-999999", "20991231-235959-999999"):
        (tmp_path / "ds" / "runs" / last).mkdir(parents=True)
        (tmp_path / "ds" / "runs" / last / "run.json").write_text("{}")
        for odd in ("of-a-user", "20990231-000000-000000", "99991231-235959-999999"):
            (tmp_path / "ds" / "runs" / odd).mkdir(exist_ok=True)
            (tmp_path / "ds" / "runs" / odd / "run.json").write_text("{}")
        name = events.new_run_id(dataset)
        assert last < name and len(name) == len(last)
        assert f"run {last} is of the future" in capsys.readouterr().err


def test_names_of_runs_sort_by_their_time(monkeypatch):
    times = [1_700_000_000_000_000_000 + 7_300_000 * turn for turn in range(200)]
    names = []
    for now_ns in times:
        monkeypatch.setattr(events.time, "time_ns", lambda now_ns=now_ns: now_ns)
        names.append(events.stamp())
    assert names == sorted(set(names))

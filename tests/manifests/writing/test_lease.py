"""The writer's lease: who is refused, who is passed over, and what a writer that lost it is told."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.writing import lease as lease_module
from manifests.writing.lease import FILE, Lease, read, this_process


@pytest.fixture(params=["disk", "store"])
def empty(request, tmp_path):
    uri = request.getfixturevalue("bucket")[0]("ds") if request.param == "store" else str(tmp_path / "ds")
    return Dataset.create(uri)


def leave(dataset, **facts):
    """A lease as another writer left it."""
    other = replace(this_process("rushes ingest"), token="other", host="node7", machine="another", **facts)
    data = lease_module._bytes(other)
    storage.write_bytes(dataset.filesystem, dataset.path(FILE), data)


def test_a_second_writer_is_refused_by_name_and_may_begin_when_the_first_has_ended(empty):
    with (
        Lease(empty, "rushes ingest"),
        pytest.raises(UsageError, match=rf"being written by .*process {os.getpid()}: rushes ingest.*"),
        Lease(empty, "rushes retry"),
    ):
        pass
    with Lease(empty, "rushes retry"):
        holder, _ = read(empty)
        assert holder.command == "rushes retry"
    assert read(empty)[0].renewed_s == 0


@pytest.mark.parametrize("off_s", [0.0, -90.0, 30 * 86400.0, float("nan")])
def test_a_writer_elsewhere_is_passed_over_only_when_it_was_not_heard_of_for_long(
    empty, capsys, monkeypatch, off_s
):
    """By the clock of the disk or the store, whatever the other machine takes for the time."""
    monkeypatch.setattr(lease_module, "STALE_S", 6.0)
    leave(empty, renewed_s=time.time() + off_s)
    with pytest.raises(UsageError, match=r"node7.*last heard of [0-5] s ago"), Lease(empty):
        pass
    time.sleep(7.5)
    with Lease(empty):
        pass
    assert "taken over from" in capsys.readouterr().err
    assert not [name for name in names_in(empty) if "tmp" in name]


def test_a_writer_that_died_and_was_not_asked_for_is_gone(empty):
    """As where the first process of a container asks for none."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = lease_module._started(child.pid)
    assert started > 0
    own = replace(this_process("rushes ingest"), token="other", pid=child.pid, started=started)
    storage.write_bytes(empty.filesystem, empty.path(FILE), lease_module._bytes(own))
    with pytest.raises(UsageError, match="being written"), Lease(empty):
        pass
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    with Lease(empty):
        pass
    child.wait()


def test_a_lease_of_the_future_is_watched_and_taken_where_it_is_not_renewed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lease_module, "STALE_S", 1.0)
    monkeypatch.setattr(lease_module, "RENEW_S", 0.4)
    dataset = Dataset.create(str(tmp_path / "ds"))
    leave(dataset, renewed_s=time.time())
    os.utime(dataset.path(FILE), (time.time() + 3600,) * 2)
    with Lease(dataset):
        pass
    assert "a clock was set back" in capsys.readouterr().err


def names_in(dataset):
    return [info.base_name for info in storage.list_files(dataset.filesystem, dataset.path(), "")]


def test_a_lease_of_a_later_version_is_a_lease(empty):
    leave(empty, renewed_s=time.time())
    found = json.loads(storage.read_bytes(empty.filesystem, empty.path(FILE))) | {"more": [1]}
    storage.write_bytes(empty.filesystem, empty.path(FILE), json.dumps(found).encode())
    with pytest.raises(UsageError, match="node7"), Lease(empty):
        pass


def test_a_writer_of_this_machine_that_was_killed_is_passed_over_at_once(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    code = (
        "import sys, time\nfrom manifests.layout import Dataset\nfrom manifests.writing.lease import Lease\n"
        "with Lease(Dataset(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline().strip() == "held"
    with pytest.raises(UsageError, match=str(writer.pid)), Lease(dataset):
        pass
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with Lease(dataset):
        pass


def test_of_many_that_take_over_one_succeeds(empty):
    leave(empty, renewed_s=0.0)
    begun, refused = [], []
    gate, end = threading.Barrier(6), threading.Event()

    def work(number):
        gate.wait()
        try:
            with Lease(empty, f"number {number}"):
                begun.append(number)
                end.wait(20)
        except UsageError as error:
            refused.append(str(error))
        if len(begun) + len(refused) == 6:
            end.set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1 and len(refused) == 5
    assert all("is being written by" in text for text in refused)


def renewed_again(dataset):
    """Wait until a lease is renewed."""
    first, until_s = read(dataset)[0].renewed_s, time.monotonic() + 60
    while read(dataset)[0].renewed_s <= first:
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_it_is_renewed_and_one_who_lost_it_is_stopped_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)
    dataset = Dataset.create(str(tmp_path))
    with pytest.raises(UsageError, match=r"was taken over by .*node7"), Lease(dataset):
        renewed_again(dataset)
        for _ in range(200):  # a renewal that had begun may come after the first time
            leave(dataset, renewed_s=time.time())
            time.sleep(0.1)
        pytest.fail("it goes on")
    assert read(dataset)[0].host == "node7"  # and the other's lease stays


def test_a_dataset_that_is_gone_is_said_to_be(tmp_path, monkeypatch):
    """And not that another writer took it."""
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)
    dataset = Dataset.create(str(tmp_path / "ds"))
    with pytest.raises(UsageError, match="is not there any more"), Lease(dataset):
        (tmp_path / "ds").rename(tmp_path / "moved")
        time.sleep(60)


def test_an_error_inside_is_told_where_the_lease_cannot_be_given_back(tmp_path, monkeypatch):
    dataset = Dataset.create(str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device", "lease.json")

    with pytest.raises(OSError, match=r"part\.parquet"), Lease(dataset):
        monkeypatch.setattr(storage, "swap_bytes", full)
        raise OSError(errno.ENOSPC, "no space left on device", "part.parquet")


def test_a_renewal_whose_answer_was_lost_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)
    dataset, real, lost = Dataset.create(str(tmp_path)), storage.swap_bytes, []

    def swap(filesystem, path, data, before):
        done = real(filesystem, path, data, before)
        if done and before is not None and not lost:
            lost.append(path)
            raise OSError("the answer did not come")
        return done

    monkeypatch.setattr(storage, "swap_bytes", swap)
    with Lease(dataset):
        until_s = time.monotonic() + 60
        while not lost and time.monotonic() < until_s:
            time.sleep(0.05)
        assert lost
        renewed_again(dataset)


def test_a_lease_that_cannot_be_read_holds_nobody_up(empty):
    odd = [b"", b"{}", b"[1]", b'{"token": 1', b"[" * 100_000]
    for name, value in (("renewed_s", "abc"), ("since_s", 1e300), ("since_s", "abc"), ("pid", None)):
        odd.append(json.dumps({**asdict(this_process("x")), "machine": "another", name: value}).encode())
    for text in odd:
        storage.write_bytes(empty.filesystem, empty.path(FILE), text)
        with Lease(empty):
            assert json.loads(storage.read_bytes(empty.filesystem, empty.path(FILE)))["pid"] == os.getpid()

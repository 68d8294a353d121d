"""A query that never ends is stopped by a signal, in one line."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from manifests.cli import INTERRUPTED, frame
from manifests.sql.queries import _stoppable

ENDLESS = "select sum(a.num_frames) from clips a, range(1000000000) b, range(100000) c"


def sent_in(seconds: float, number: signal.Signals) -> threading.Timer:
    """A signal to the main thread; no alarm, by which tests that take too long are ended."""
    main = threading.main_thread().ident
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(main, number))
    timer.start()
    return timer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_query_hears_of_signals(dataset, number):
    command = [sys.executable, "-P", "-m", "rushes", "query", dataset.uri, ENDLESS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(number)
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode in (130, 143, -signal.SIGTERM)
    assert "Traceback" not in said and len(said.splitlines()) <= 2


def test_one_that_has_not_quite_begun_hears_of_it_too():
    """The signal comes between its being handed to a thread and its beginning."""

    def late(connection):
        time.sleep(1)
        return connection.execute("select count(*) from range(1000000000) a, range(100000) b").fetchall()

    with duckdb.connect(":memory:") as connection:
        rung = sent_in(0.3, signal.SIGINT)
        try:
            with pytest.raises(KeyboardInterrupt):
                _stoppable(connection, functools.partial(late, connection))
        finally:
            rung.cancel()


def test_a_signal_that_duckdb_hears_in_the_main_thread_is_one(monkeypatch, capsys):
    """It raises an error of its own in place of what the handler raised, if it hears of it at all."""
    heard = []

    def verb(words, package):
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET threads = 1")  # so that it takes a second on any machine
            rung = sent_in(0.2, signal.SIGTERM)
            try:
                connection.execute("select sum(hash(a.range)) from range(1000000) a, range(300) b")
            except RuntimeError as error:
                heard.append(str(error))
                raise
            rung.join()  # the signal comes, whatever the query took
            time.sleep(1)

    monkeypatch.setattr(frame, "run", verb)
    for _ in range(30):
        assert frame.main() == INTERRUPTED
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if heard:
            break
    assert heard == ["Query interrupted"]
    assert "Traceback" not in capsys.readouterr().err

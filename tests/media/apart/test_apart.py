"""Decoding in a process apart: the same pictures, and no harm from a decoder that is taken over or dies."""

import hashlib
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.apart import pool, process
from media.apart.process import Decoder
from media.apart.reader import Reader, probe
from media.decode.probe import probe as probe_here
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.media.bytes.http_server import Server

CONFINED = """
import os, socket, subprocess, threading
from media.apart.confine import confine

import sys
on_gpu = sys.argv[1:] == ["gpu"]
assert confine(on_gpu=on_gpu)
import ctypes

def call(*arguments):
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

sees = []
thread = threading.Thread(target=lambda: sees.append(open(__file__).read(10)))
thread.start(), thread.join()
assert sees, "a thread that reads a file must go on"

def refused(what):
    try:
        what()
    except OSError as error:
        return error.errno == 1
    return False

folder = os.path.dirname(__file__)
attempts = {
    "network": lambda: socket.socket(),
    "write": lambda: open(folder + "/new", "w"),
    "append": lambda: open(__file__, "a"),
    "delete": lambda: os.unlink(__file__),
    "rename": lambda: os.rename(__file__, folder + "/other"),
    "folder": lambda: os.mkdir(folder + "/folder"),
    "link": lambda: os.symlink("/", folder + "/link"),
    "program": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "kill": lambda: os.kill(os.getppid(), 0),
    "kill a thread": lambda: call(234, os.getppid(), os.getppid(), 0),
    "signal by descriptor": lambda: call(424, os.open(f"/proc/{os.getppid()}", os.O_RDONLY), 0, None, 0),
    "limits of others": lambda: call(302, os.getppid(), 7, None, None),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 10),
    "rights": lambda: call(452, -100, __file__.encode(), 0o777, 0),
    "times": lambda: os.utime(__file__),
    "truncate": lambda: os.ftruncate(2, 0),
    "shared memory": lambda: call(29, 0, 4096, 0o1600),
}
print([name for name, what in attempts.items() if not refused(what)])
call(234, os.getpid(), os.getpid(), 0)  # itself it may
if on_gpu:  # devices are there and written to; a driver's addresses have no end
    os.close(os.open(__file__, os.O_RDWR))
    sys.exit()
try:
    import mmap
    mmap.mmap(-1, 1 << 36)
    print("shared")
except OSError:
    pass
try:
    bytearray(1 << 40)
    print("memory")
except MemoryError:
    pass
"""
DIES_HERE = """
import sys, time
from media.apart import pool
from media.apart.reader import Reader, probe
pictures = Reader(probe(sys.argv[1]), decoder="pyav").pictures()
next(pictures)
print(*pool.pids(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def film(films) -> str:
    return str(sorted(films.glob("*.mp4"))[0])


@pytest.fixture(autouse=True)
def _no_decoder_before():
    pool._pool.end()
    yield
    pool._pool.end()


def seen(reader):
    return [
        (shown.time_s, shown.geometry, shown.signs.is_damaged, shown.signs.is_key)
        + tuple(part.tobytes() for part in (shown.glance(16), shown.draft(24), shown.rgb(20, 12)))
        for shown in reader.pictures(0.2, 1.0)
    ]


def test_it_gives_what_the_decoders_give_in_this_process(films, tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    for path in (*sorted(films.glob("*.mp4"))[:2], *sorted(films.glob("*.webm"))[:2], tmp_path / "red.png"):
        facts = probe(str(path))
        assert facts == probe_here(str(path))
        assert seen(Reader(facts, decoder="pyav")) == seen(VideoReader(facts, decoder="pyav"))
        for far, near in zip(Reader(facts, 400).frames(), VideoReader(facts, 400).frames(), strict=True):
            assert (far.time_s, far.is_damaged) == (near.time_s, near.is_damaged)
            assert np.array_equal(far.rgb, near.rgb) and far.rgb.flags.writeable
        if facts.kind == "video":
            assert Reader(facts).count(0.1, 0.5) == VideoReader(facts).count(0.1, 0.5)
    assert len(pool.pids()) == 1


def test_a_pass_that_is_given_up_leaves_its_decoder_to_the_next_file(film):
    facts = probe(film)
    pictures = Reader(facts).pictures()
    next(pictures)
    [before] = pool.pids()
    pictures.close()
    assert len(seen(Reader(facts))) > 1 and pool.pids() == [before]


def test_two_files_at_once_have_two_decoders(film):
    facts = probe(film)
    first, second = Reader(facts).pictures(), Reader(facts).pictures()
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.rgb(8, 8), other.rgb(8, 8))
    assert len(pool.pids()) == 2


def test_errors_name_file_and_cause_as_they_do_here(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no film at all" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4", "missing.mp4"):
        with pytest.raises(MediaError) as here:
            probe_here(str(tmp_path / name))
        with pytest.raises(MediaError) as apart:
            probe(str(tmp_path / name))
        assert (apart.value.reason, apart.value.message) == (here.value.reason, here.value.message)
    assert len(pool.pids()) == 1, "an error of a file costs no decoder"


def test_a_decoder_that_dies_of_a_file_is_that_files_error_and_the_next_file_has_another(film):
    facts = probe(film)
    pictures = Reader(facts).pictures()
    next(pictures)
    [before] = pool.pids()
    os.kill(before, signal.SIGSEGV)
    with pytest.raises(MediaError, match=r"decoder_died: .*\.mp4: its decoder died of it \(SIGSEGV\)"):
        list(pictures)
    assert len(seen(Reader(facts))) > 1 and before not in pool.pids()


def test_a_death_after_another_file_is_nobodys_until_a_new_decoder_dies_too(film, films, monkeypatch):
    other = str(sorted(films.glob("*.webm"))[0])
    facts, [whole, *_] = probe(film), [seen(Reader(probe(film)))]
    probe(other)
    pictures = Reader(facts).pictures(0.2, 1.0)
    first = next(pictures)
    [before] = pool.pids()
    os.kill(before, signal.SIGSEGV)
    assert [first.time_s, *(shown.time_s for shown in pictures)] == [row[0] for row in whole]
    assert before not in pool.pids()
    probe(other)
    real = Decoder.ask

    def dying(self, do, **arguments):
        if do == "probe":
            os.kill(self.pid, signal.SIGSEGV)
        return real(self, do, **arguments)

    monkeypatch.setattr(Decoder, "ask", dying)
    with pytest.raises(MediaError, match=r"decoder_died: .*\.mp4: its decoder died of it \(SIGSEGV\)"):
        probe(film)


def test_a_decoder_that_is_killed_from_outside_is_no_fault_of_the_file(film):
    pictures = Reader(probe(film)).pictures()
    next(pictures)
    os.kill(pool.pids()[0], signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="was killed from outside"):
        list(pictures)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are those of x86-64")
@pytest.mark.parametrize("given", [[], ["gpu"]])
def test_it_may_read_and_compute_and_nothing_else(tmp_path, given):
    """With a GPU it may open what is there for writing too: which files those are, Landlock says."""
    script = tmp_path / "confined.py"
    script.write_text(CONFINED)
    environment = {**os.environ, "PYTHONPATH": str(Path(process.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script, *given], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_it_is_confined_and_knows_no_secret(film, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-mine")
    decoder = process.Decoder()
    assert decoder.is_filtered
    [seccomp] = [
        line for line in Path(f"/proc/{decoder.pid}/status").read_text().splitlines() if "Seccomp:" in line
    ]
    assert seccomp.split()[1] == "2"
    assert b"a-secret-of-mine" not in Path(f"/proc/{decoder.pid}/environ").read_bytes()
    decoder.end()


def test_what_is_not_local_comes_through_the_process_that_asks(films, tmp_path, monkeypatch):
    film = sorted(films.glob("*.mp4"))[0]
    with tarfile.open(tmp_path / "films.tar", "w") as tar:
        tar.add(film, "a.mp4")
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    monkeypatch.setenv("RUSHES_HTTP_ALLOW_PRIVATE", "127.0.0.1/32")
    truth = seen(VideoReader(probe_here(str(film)), decoder="pyav"))
    with Server(tmp_path) as server:
        for uri in (
            f"{tmp_path}/films.tar#a.mp4",
            f"{server.url}/ok/film.mp4",
            f"{server.url}/ok/films.tar#a.mp4",
        ):
            assert seen(Reader(probe(uri), decoder="pyav")) == truth
        with pytest.raises(MediaError, match="missing"):
            probe(f"{server.url}/status/404/no.mp4")


def test_it_cannot_ask_for_other_files(film, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for request in ({"read": [0, 4]}, {"size": True}, {"read": "nonsense"}, {"read": [0, -1]}):
        decoder = process.Decoder()
        decoder.begin(film)
        with pytest.raises(MediaError, match="nonsense"):
            decoder._hand(request)
        assert not decoder.is_alive


@pytest.mark.parametrize(
    "shapes", [None, [], [[1, 2]], [[9, 9, 3]], [[-1, -4, 3]], ["12"], [[1, 3, 3]], [[2, 2, 3], [1, 1, 3]]]
)
def test_nonsense_is_no_picture(shapes):
    decoder = process.Decoder()
    with pytest.raises(MediaError, match="nonsense"):
        decoder.arrays({"shapes": shapes}, np.zeros(12, np.uint8))


def test_it_ends_with_the_process_that_asks(film):
    root = str(Path(process.__file__).parents[2])
    asks = subprocess.Popen(
        [sys.executable, "-c", DIES_HERE, film], cwd=root, stdout=subprocess.PIPE, text=True
    )
    [pid] = map(int, asks.stdout.readline().split())
    asks.kill()
    asks.wait()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the decoder outlived it")


def test_folders_named_like_our_packages_are_not_imported(film, tmp_path, monkeypatch):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert probe(film) == probe_here(film)


def test_a_decoder_that_cannot_start_is_no_fault_of_the_file(film, monkeypatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="cannot be started"):
        probe(film)


def test_whatever_the_decoder_says_the_file_is_the_one_that_was_asked_about(film, monkeypatch):
    said = {"probe": {**asdict(probe_here(film)), "path": "s3://private/secret.json"}}
    monkeypatch.setattr(process.Decoder, "ask", lambda *own, **named: (said, np.empty(0, np.uint8)))
    assert probe(film).path == film
    monkeypatch.setattr(process.Decoder, "ask", lambda *own, **named: ({}, np.empty(0, np.uint8)))
    with pytest.raises(MediaError, match="nonsense"):
        probe(film)


def test_more_than_a_block_of_a_far_file_is_not_handed_out(films, tmp_path):
    with tarfile.open(tmp_path / "films.tar", "w") as tar:
        tar.add(sorted(films.glob("*.mp4"))[0], "a.mp4")
    for request in ([0, -1], [-1, 4], [0, 1 << 40]):
        decoder = process.Decoder()
        decoder.begin(f"{tmp_path}/films.tar#a.mp4")
        with pytest.raises(MediaError, match="nonsense"):
            decoder._hand({"read": request})


def test_decoders_that_end_leave_no_descriptor(film):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(4):
        process.Decoder().end()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("name", ["flip50_vp8.webm", "trunc50.avi"])
def test_a_damaged_file_gives_the_same_bytes_whatever_was_decoded_before(real_videos, name):
    """FFmpeg shows the content of buffers that it uses again where bytes are lost: it must be this file's."""
    damaged, other = (str(real_videos / "derived" / "corrupt" / file) for file in (name, "trunc50.mkv"))

    def digest(path: str) -> str:
        found = hashlib.sha256()
        for picture in Reader(probe(path), decoder="pyav").pictures(0, 1e9):
            found.update(picture.glance(64).tobytes())
        return found.hexdigest()

    first = digest(damaged)
    digest(other)
    assert digest(damaged) == first
    assert digest(damaged) == first  # by a decoder that has read it before, too

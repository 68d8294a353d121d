import ipaddress
import socket
import ssl
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from PIL import Image

from manifests.errors import UsageError
from media.bytes.access import held, is_local, open_binary, open_media, read_range, stat_media, tar_index
from media.bytes.blocks import BlockReader, Blocks
from media.bytes.http_client import HttpClient
from media.bytes.http_file import http_source
from media.bytes.http_rules import HttpLimits, is_public
from media.decode.container.opening import open_container
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError, shown
from tests.e2e.commands import free_port
from tests.media.bytes.http_server import Server

QUICK = HttpLimits(
    allow_private=("127.0.0.1/32",), backoff_s=0.01, max_wait_s=0.05, read_s=2, connect_s=2, max_attempts=3
)


@pytest.fixture(scope="module")
def footage(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    video = sorted(films.glob("*.mp4"))[0]
    (folder / "a film.mp4").write_bytes(video.read_bytes())
    (folder / "film.mp4").write_bytes(video.read_bytes())
    (folder / "film.webm").write_bytes(sorted(films.glob("*.webm"))[0].read_bytes())
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(5_500_000))
    (folder / "empty.mp4").write_bytes(b"")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(
        folder / "still.png"
    )
    with tarfile.open(folder / "films.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("film.mp4", "film.webm", "still.png", "noise.bin"):
            tar.add(
                folder / name, arcname=f"däta/{'long' * 40}/{name}" if name == "film.webm" else f"d/{name}"
            )
    return folder


@pytest.fixture(scope="module")
def server(footage):
    with Server(footage) as served:
        yield served


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    for name, value in {
        "ALLOW_PRIVATE": "127.0.0.1/32",
        "BACKOFF_S": "0.01",
        "MAX_WAIT_S": "0.05",
        "READ_S": "2",
        "MAX_ATTEMPTS": "3",
    }.items():
        monkeypatch.setenv(f"RUSHES_HTTP_{name}", value)


def frames(uri):
    facts = probe(uri)
    return facts, [
        (frame.time_s, frame.rgb.tobytes()) for frame in VideoReader(facts, 4096, decoder="pyav").frames()
    ]


def test_films_and_stills_read_alike_from_every_kind_of_address(footage, server):
    long_name = f"däta/{'long' * 40}/film.webm"
    for name, addresses in {
        "film.mp4": [
            f"{server.url}/ok/film.mp4",
            f"{server.url}/plain/film.mp4",
            f"{footage}/films.tar#d/film.mp4",
            f"{server.url}/ok/films.tar#d/film.mp4",
        ],
        "film.webm": [
            f"{server.url}/ok/film.webm",
            f"{footage}/films.tar#{long_name}",
            f"{server.url}/plain/films.tar#{long_name}",
        ],
        "still.png": [f"{server.url}/ok/still.png", f"{footage}/films.tar#d/still.png"],
    }.items():
        facts, local = frames(str(footage / name))
        for address in addresses:
            there, remote = frames(address)
            assert remote == local, address
            assert (there.num_packets, there.duration_s, there.geometry) == (
                facts.num_packets,
                facts.duration_s,
                facts.geometry,
            )
            assert there.decoder in {"pyav", "pillow"}
            assert there.kind == "image" or "remote" in there.decoder_reasons
            assert stat_media(address)[0] == (footage / name).stat().st_size
            assert not is_local(address)


def test_av_and_pillow_take_what_open_media_gives(footage, server):
    with open_media(f"{server.url}/ok/film.mp4") as file, av.open(file) as container:
        assert len(list(container.decode(video=0))) == len(frames(str(footage / "film.mp4"))[1])
    with open_media(f"{footage}/films.tar#d/still.png") as file, Image.open(file) as image:
        assert image.size == (60, 40)
    assert open_media(str(footage / "film.mp4")) == str(footage / "film.mp4")


def test_real_videos_read_alike_out_of_a_tar_and_over_http(real_videos, tmp_path):
    files = sorted(
        (
            path
            for path in real_videos.iterdir()
            if path.suffix in {".mp4", ".mkv", ".webm", ".ts", ".avi", ".mov"}
        ),
        key=lambda p: p.stat().st_size,
    )[:12]
    with tarfile.open(tmp_path / "real.tar", "w") as tar:
        for path in files:
            tar.add(path, arcname=path.name)

    def outcome(uri):
        try:
            return frames(uri)[1]
        except MediaError as error:
            return error.reason

    with Server(real_videos) as served:
        for path in files:
            assert (
                outcome(str(path))
                == outcome(f"{tmp_path}/real.tar#{path.name}")
                == outcome(f"{served.url}/ok/{path.name}")
            )


def test_a_seek_far_into_a_remote_file_reads_only_part_of_it(footage, server):
    before = len(server.seen)
    data = (footage / "noise.bin").read_bytes()
    with open_binary(f"{server.url}/ok/noise.bin") as file:
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        assert file.seek(100) == file.tell() == 100
        assert file.read(5) == data[100:105]
    assert len(server.seen) - before == 2
    assert read_range(f"{server.url}/ok/noise.bin", 1_048_570, 20) == data[1_048_570:1_048_590]
    assert read_range(f"{footage}/films.tar#d/noise.bin", 5_499_990, 99) == data[-10:]


def test_one_connection_serves_many_reads(footage, server):
    before = len(server.ports)
    with open_binary(f"{server.url}/ok/noise.bin") as file:
        assert file.read() == (footage / "noise.bin").read_bytes()
    assert len(server.ports) - before >= 2
    assert len(set(server.ports[before:])) == 1


def test_blocks_read_ahead_where_reading_goes_straight_on_and_keep_few():
    data, asked = np.random.default_rng(0).bytes(100_000), []
    blocks = Blocks(
        "x",
        len(data),
        lambda offset, size: asked.append((offset, size)) or data[offset : offset + size],
        block_bytes=1000,
        max_ahead=4,
        num_blocks=8,
    )
    reader = BlockReader(blocks)
    assert b"".join(iter(lambda: reader.read(37), b"")) == data
    assert asked[:4] == [(0, 1000), (1000, 2000), (3000, 4000), (7000, 4000)]
    assert len(blocks._blocks) <= 8
    generator = np.random.default_rng(2)
    for _ in range(300):
        offset, size = int(generator.integers(0, 100_500)), int(generator.integers(0, 5000))
        reader.seek(offset)
        assert reader.read(size) == data[offset : offset + size]
    with pytest.raises(MediaError, match="cut"):
        BlockReader(Blocks("x", 10, lambda offset, size: b"")).read()


@pytest.mark.parametrize(
    ("path", "reason", "words"),
    [
        ("status/404/x.mp4", "missing", "404"),
        ("status/403/x.mp4", "http_status", "403"),
        ("status/418/x.mp4", "http_status", "418"),
        ("status/500/x.mp4", "http_status", "3 times"),
        ("loop/0", "redirect", "more than 5"),
        ("to/x?file:///etc/passwd", "redirect", "only http"),
        ("to/x?http://[::1", "redirect", "no address"),
        ("to/x?http://127.0.0.2:1/x.mp4", "private_address", "127.0.0.2"),
        ("to/x?http://169.254.169.254/latest/meta-data", "private_address", "169.254"),
        ("to/x?http://[::ffff:10.0.0.1]/x", "private_address", "ffff"),
        ("to/x?http://2130706434/x", "private_address", "127.0.0.2"),
        ("huge/film.mp4", "too_large", "limit"),
        ("cut_always/film.mp4", "cut", "3 times"),
        ("wrong/noise.bin", "no_ranges", "asked for"),
    ],
)
def test_a_server_that_misbehaves_is_an_error_in_words(server, path, reason, words):
    with (
        pytest.raises(MediaError, match=words) as caught,
        open_binary(f"{server.url.replace('//', '//user:secret@')}/{path}") as file,
    ):
        file.seek(2_000_000)
        file.read(10)
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", ["busy", "busy503", "patience", "cut", "untagged"])
def test_what_may_pass_is_tried_again_within_bounds(footage, server, mode):
    begin = time.monotonic()
    with open_binary(f"{server.url}/{mode}/film.mp4") as file:
        assert file.read() == (footage / "film.mp4").read_bytes()
    assert time.monotonic() - begin < 20


def test_a_file_that_changes_between_two_reads_is_an_error(footage, server):
    with open_binary(f"{server.url}/changes/noise.bin") as file:
        first = file.read(10)
        assert first == (footage / "noise.bin").read_bytes()[:10]
        file.seek(4_000_000)
        with pytest.raises(MediaError) as caught:
            file.read(10)
    assert caught.value.reason == "source_changed"
    with pytest.raises(MediaError) as caught, open_container(f"{server.url}/changes/films.tar#d/noise.bin"):
        pass
    assert len(frames(str(footage / "film.mp4"))[1]) > 1  # the error does not come up in the next file


def test_limits_of_size_and_time_hold_where_there_are_no_ranges(server, footage, tmp_path, monkeypatch):
    small = HttpLimits(**{**vars(QUICK), "max_download_bytes": 1 << 20})
    for mode in ("endless", "plain"):
        with pytest.raises(MediaError) as caught:
            open_binary(f"{server.url}/{mode}/noise.bin", small)
        assert caught.value.reason == "too_large"
    hasty = HttpLimits(**{**vars(QUICK), "download_s": 0.3})
    begin = time.monotonic()
    with pytest.raises(MediaError) as caught:
        open_binary(f"{server.url}/slow/film.mp4", hasty)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - begin < 10
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_binary(f"{server.url}/plain/noise.bin") as file:
        file.seek(5_000_000)
        assert file.read(9) == (footage / "noise.bin").read_bytes()[5_000_000:5_000_009]
    assert not list(tmp_path.iterdir())


def test_one_download_serves_all_that_open_it_at_the_same_time(server):
    url = f"{server.url}/plain/film.mp4?once"
    with held(url), held(__file__):
        frames(url)
        stat_media(url)
    assert sum(path.endswith("?once") for path, _ in server.seen) == 1


def test_private_addresses_are_refused_unless_allowed(server, monkeypatch):
    monkeypatch.delenv("RUSHES_HTTP_ALLOW_PRIVATE")
    for url in (
        server.url,
        server.url.replace("127.0.0.1", "localhost"),
        server.url.replace("127.0.0.1", "0x7f.1"),
    ):
        with pytest.raises(MediaError) as caught:
            open_binary(f"{url}/ok/film.mp4")
        assert caught.value.reason == "private_address"
    for text in (
        "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 240.0.0.1 "
        "255.255.255.255 192.0.2.1 198.18.0.1 "
        "::1 :: fe80::1 fc00::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: "
        "64:ff9b::7f00:1 ::7f00:1 2001:db8::1"
    ).split():
        assert not is_public(ipaddress.ip_address(text)), text
    for text in "8.8.8.8 1.1.1.1 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808".split():
        assert is_public(ipaddress.ip_address(text)), text


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    footage, server, monkeypatch
):
    real, asked = socket.getaddrinfo, []

    def rebinding(host, port, *args, **kwargs):
        if host != "rebind.test":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = f"{server.url.replace('127.0.0.1', 'rebind.test')}/ok/noise.bin"
    with open_binary(url) as file:
        assert file.read() == (footage / "noise.bin").read_bytes()
    assert asked == ["rebind.test"]
    assert server.seen[-1][1]["Host"].startswith("rebind.test:")
    with pytest.raises(MediaError, match=r"127\.0\.0\.2"):
        open_binary(url)


def test_credentials_come_from_the_address_alone_and_stay_with_its_origin(
    server, footage, monkeypatch, tmp_path
):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hidden")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with open_binary(f"{server.url}/ok/film.mp4"):
        assert "Authorization" not in server.seen[-1][1]
    with (
        Server(footage) as other,
        open_binary(f"{server.url.replace('//', '//u:p@')}/to/x?{other.url}/ok/film.mp4"),
    ):
        assert server.seen[-1][1]["Authorization"] == "Basic dTpw"
        assert "Authorization" not in other.seen[-1][1]
    assert (
        shown("see https://u:p@ss@h/x.mp4?sig=abc and s3://k:s@b/x")
        == "see https://***@h/x.mp4?... and s3://***@b/x"
    )


def test_a_playlist_from_afar_cannot_make_ffmpeg_open_other_files(server, footage):
    (footage / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{server.url}/ok/film.mp4?stolen\n"
        f"#EXTINF:5,\nfile://{footage}/film.mp4\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError):
        probe(f"{server.url}/ok/list.m3u8")
    assert not any("stolen" in path for path, _ in server.seen)


def test_tls_names_are_checked_against_the_host_that_was_asked_for(footage, tmp_path, monkeypatch):
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=films.test",
            "-addext",
            "subjectAltName=DNS:films.test",
            "-keyout",
            tmp_path / "key.pem",
            "-out",
            tmp_path / "cert.pem",
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no openssl")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: real(
            "127.0.0.1" if str(host).endswith(".test") else host, *args, **kwargs
        ),
    )
    with Server(footage) as served:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        served.socket = context.wrap_socket(served.socket, server_side=True)
        port = served.server_address[1]
        with open_binary(f"https://films.test:{port}/ok/film.mp4") as file:
            assert file.read() == (footage / "film.mp4").read_bytes()
        with pytest.raises(MediaError) as caught:
            open_binary(f"https://other.test:{port}/ok/film.mp4")
        assert caught.value.reason == "tls"


def test_settings_come_from_the_environment_and_nonsense_is_named():
    assert HttpLimits.from_environment(
        {"RUSHES_HTTP_READ_S": "5", "RUSHES_HTTP_MAX_BYTES": "7"}
    ) == HttpLimits(read_s=5.0, max_bytes=7)
    assert HttpLimits.from_environment({"RUSHES_HTTP_ALLOW_PRIVATE": "1"}).allow_private == (
        "0.0.0.0/0",
        "::/0",
    )
    for name in ("RUSHES_HTTP_READ_S", "RUSHES_HTTP_ALLOW_PRIVATE"):
        with pytest.raises(UsageError, match=name):
            HttpLimits.from_environment({name: "soon"})
    with pytest.raises(UsageError, match="too small"):
        HttpLimits.from_environment({"RUSHES_HTTP_MAX_ATTEMPTS": "0"})


def test_a_host_or_port_that_is_not_there_is_named(server):
    port = free_port()
    with pytest.raises(MediaError) as caught:
        open_binary(f"http://127.0.0.1:{port}/x.mp4", QUICK)
    assert caught.value.reason == "unreachable"
    with pytest.raises(MediaError) as caught:
        open_binary("http://no-such-host.invalid/x.mp4", QUICK)
    assert caught.value.reason == "no_host"
    for uri in ("ftp://h/x", "nonsense://x", "http:///x"):
        with pytest.raises(MediaError) as caught:
            stat_media(uri)
        assert caught.value.reason == "address"


def test_tars_that_are_cut_or_no_tars_say_so(footage, tmp_path):
    whole = (footage / "films.tar").read_bytes()
    offset, size = tar_index(f"{footage}/films.tar").members["d/film.mp4"]
    for name, data in {
        "cut": whole[: len(whole) // 2],
        "junk": b"junk" * 4000,
        "holes": whole[: offset + size + 512 * 3] + b"x" * 4096,
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        index = tar_index(f"{tmp_path}/{name}.tar")
        assert index.damage, name
        assert ("d/film.mp4" in index.members) == (name != "junk")
        with pytest.raises(MediaError) as caught:
            probe(f"{tmp_path}/{name}.tar#d/none.mp4")
        assert caught.value.reason == "bad_tar"
    with pytest.raises(MediaError, match="no member") as caught:
        open_binary(f"{footage}/films.tar#d/none.mp4")
    assert caught.value.reason == "missing"
    with pytest.raises(MediaError, match="does not exist"):
        probe(f"{tmp_path}/none.tar#a.mp4")
    (tmp_path / "x.tar#y.mp4").write_bytes((footage / "film.mp4").read_bytes())
    assert is_local(f"{tmp_path}/x.tar#y.mp4")
    assert probe(f"{tmp_path}/x.tar#y.mp4").kind == "video"


def test_many_readers_of_one_address_get_the_same_bytes(footage, server):
    data = (footage / "noise.bin").read_bytes()
    source = http_source(f"{server.url}/ok/noise.bin", QUICK)
    assert isinstance(source._client, HttpClient)

    def part(index):
        with open_binary(f"{server.url}/ok/noise.bin", QUICK) as file:
            file.seek(index * 100_000)
            return file.read(100_000)

    with ThreadPoolExecutor(4) as pool:
        assert b"".join(pool.map(part, range(55))) == data


def test_an_empty_or_missing_file_is_named(server, footage):
    for uri, reason in (
        (f"{server.url}/ok/empty.mp4", "empty"),
        (f"{footage}/empty.mp4", "empty"),
        (f"{footage}/none.mp4", "missing"),
    ):
        with pytest.raises(MediaError) as caught:
            probe(uri)
        assert caught.value.reason == reason

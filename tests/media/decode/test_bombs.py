"""Small files that claim to be huge: refused before memory is given to them."""

import io
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from media.bytes.access import tar_index
from media.bytes.tar_member import MAX_EXTENSION_BYTES
from media.decode.limits import MAX_PIXELS
from media.decode.probe import probe
from media.errors import MediaError


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_a_tar_whose_header_claims_gigabytes_costs_none(tmp_path, kind):
    """The file is sparse: it is as large as it says, and takes 4 kB."""
    path = tmp_path / "bomb.tar"
    first = header("a.mp4", 1, tarfile.REGTYPE) + b"x".ljust(512, b"\0")
    with open(path, "wb") as file:
        file.write(first + header("bomb", 3 << 30, kind))
        file.truncate(len(first) + 512 + (3 << 30) + 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = tar_index(str(path))
    assert list(index.members) == ["a.mp4"] and "extended header claims 3221225472 bytes" in index.damage
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_long_names_that_are_true_are_read(tmp_path):
    path = tmp_path / "long.tar"
    name = "/".join(["folder" * 20] * 8) + "/clip.mp4"
    assert len(name) < MAX_EXTENSION_BYTES
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(path, "w", format=form) as tar:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        index = tar_index(str(path))
        assert list(index.members) == [name] and not index.damage


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("L", "PNG"), ("1", "TIFF")])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, mode, kind):
    side = int(MAX_PIXELS**0.5) + 50
    path = tmp_path / f"bomb.{kind.lower()}"
    own = Image.MAX_IMAGE_PIXELS
    Image.new(mode, (side, side)).save(path, kind, **({"compression": "group4"} if kind == "TIFF" else {}))
    assert own == MAX_PIXELS and path.stat().st_size < 2 << 20
    with pytest.raises(MediaError, match=rf"{side} x {side} pixels.*RUSHES_MAX_PIXELS") as failure:
        probe(str(path))
    assert failure.value.reason == "too_large"


def test_the_limit_is_a_setting_and_one_without_sense_is_named(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (100, 100)).save(path)
    code = f"from media.decode.probe import probe; probe({str(path)!r})"
    for value, words in (("9999", "100 x 100 pixels"), ("many", "RUSHES_MAX_PIXELS=many"), ("10000", "")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": "/usr/bin", "RUSHES_MAX_PIXELS": value},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert words in done.stderr and (done.returncode == 0) == (not words)

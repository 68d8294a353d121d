"""A second decoder of HEVC, which says where a packet's bits are no sound picture.

FFmpeg takes flipped bits in HEVC for a picture, without a word. Read by CABAC (ITU-T H.265, section 9.3) they
shift all that follows, so that a slice does not end where its picture does, or rows of blocks where their
bytes do. libde265, which pi_heif brings along for HEIC, compares those; FFmpeg does not. Its pictures are
not used. Without the filters behind decoding, on which no bit depends, it takes about as long as FFmpeg.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import weakref
from functools import cache
from importlib import metadata

from media.damage.nal import whole_units
from media.errors import MediaError

_NO_DEBLOCKING, _NO_SAO = 7, 8
_NEEDS_MORE = 13
_UNABLE = {7, 9, 10, 19}
"""Errors that tell of libde265, not of the packet: out of memory, or a picture larger than it takes. It says
nothing of the stream any more."""
_DAMAGE = {4, 6, 8, 16, 17, 18, 1002, 1003, 1004, 1007, 1017, 1020, 1021, 1023, 1026, 1027, 1034}
"""What it says of a packet whose bits are wrong; of missing references FFmpeg speaks itself."""
_MOST_STEPS = 10_000


@cache
def _library() -> ctypes.CDLL:
    """Raises: MediaError: it is not there."""
    files = metadata.files("pi_heif") or []
    own = [str(file.locate()) for file in files if file.name.startswith("libde265")]
    try:
        name = next(iter(own), None) or ctypes.util.find_library("de265")
        found = ctypes.CDLL(name or "libde265.so.0")
    except OSError as error:
        raise MediaError(
            "no_decoder",
            "libde265 is missing, which comes with pi_heif's wheels: pip install pi_heif, or add "
            "--curate.no-hevc-witness",
        ) from error
    found.de265_new_decoder.restype = found.de265_get_next_picture.restype = ctypes.c_void_p
    number, text = ctypes.c_int, ctypes.c_char_p
    for function, kinds in {
        "push_NAL": (text, number, ctypes.c_int64, ctypes.c_void_p),
        "push_data": (text, number, ctypes.c_int64, ctypes.c_void_p),
        "decode": (ctypes.POINTER(number),),
        "set_parameter_bool": (number, number),
        **dict.fromkeys(
            ("get_warning", "get_next_picture", "release_next_picture", "push_end_of_frame", "free_decoder"),
            (),
        ),
    }.items():
        getattr(found, f"de265_{function}").argtypes = (ctypes.c_void_p, *kinds)
    return found


def load() -> None:
    """Load the library where it is there: later this process may be confined, and not find it any more."""
    with contextlib.suppress(MediaError):
        _library()


class Libde265:
    """Looks at the packets of one stream of HEVC, from a keyframe on.

    Args:
        extradata: of the stream, as FFmpeg has it.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._library, self._is_able = _library(), True
        self._decoder = self._library.de265_new_decoder()
        weakref.finalize(self, self._library.de265_free_decoder, self._decoder)
        for parameter in (_NO_DEBLOCKING, _NO_SAO):
            self._library.de265_set_parameter_bool(self._decoder, parameter, 1)
        self._size_bytes = 0
        self.take_settings(extradata or b"")

    def take_settings(self, data: bytes) -> None:
        """Parameter sets, as of the stream or of a packet that brings others."""
        if len(data) > 23 and data[0] == 1:  # as MP4 and Matroska have it: ISO/IEC 14496-15, section 8.3.3.1
            self._size_bytes, at = (data[21] & 3) + 1, 23
            for _ in range(data[22]):
                count, at = int.from_bytes(data[at + 1 : at + 3], "big"), at + 3
                for _ in range(count):
                    size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
                    self._push(data[at : at + size])
                    at += size
        elif data:
            self._library.de265_push_data(self._decoder, data, len(data), 0, None)
        self._said()

    def complains(self, packet: bytes) -> bool:
        """Whether a packet's bits are no sound picture; packets in the order of decoding."""
        if not self._is_able:
            return False
        if self._size_bytes:
            for unit in whole_units(packet, self._size_bytes):
                self._push(unit)
        else:
            self._library.de265_push_data(self._decoder, packet, len(packet), 0, None)
        self._library.de265_push_end_of_frame(self._decoder)
        said = self._said()
        self._is_able = not said & _UNABLE
        return bool(said & _DAMAGE)

    def _push(self, unit: bytes) -> None:
        if unit:
            self._library.de265_push_NAL(self._decoder, unit, len(unit), 0, None)

    def _said(self) -> set[int]:
        """Decode what was pushed, and collect its errors and warnings."""
        said, more = set[int](), ctypes.c_int(1)
        for _ in range(_MOST_STEPS):
            error = self._library.de265_decode(self._decoder, ctypes.byref(more))
            while self._library.de265_get_next_picture(self._decoder):
                self._library.de265_release_next_picture(self._decoder)
            while warning := self._library.de265_get_warning(self._decoder):
                said.add(warning)
            if error == _NEEDS_MORE or not more.value:
                break
            said.add(error)
        return said

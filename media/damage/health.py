"""What a decoder lost on the way, and which frames that damages."""

from __future__ import annotations

from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext

from media.aspects import plausible
from media.damage.complaints import complaints, is_spared, speaks_of_others
from media.damage.frame_numbers import FrameNumbers
from media.damage.libde265 import Libde265
from media.damage.obu import apart
from media.damage.packet_kinds import is_hidden, is_leaf, top_layer
from media.damage.witness import PROMPT
from media.errors import MediaError

MISSING_SHARE = 0.02
"""A decoder that loses more of a file's frames than this without an error is not believed."""
_REFUSING = {"hevc", "vp8", "vp9", "av1"}
"""Codecs whose decoders give no frame that is built on what is missing."""
_NUMBERED = {"h264", "hevc", "mpeg1video", "mpeg2video"}
"""Codecs whose pictures have numbers that tell of a missing one, so that a gap is no pause."""
_EXACT = {"av1"}
"""Those whose decoder refuses all that leans on what is lost, so that what it gives is equal to the sound
file's, but for frames beside a lost one: dav1d may show another in its place, or build the first one after a
packet that never came on what was there before."""
_FORGOTTEN_S = 10.0  # a packet whose frame has not come by then gave none


def _seconds(pts: int | None, time_base: Fraction | None) -> float:
    return round((pts or 0) * time_base.numerator / time_base.denominator, 6) if time_base else 0.0


class Health:
    """What a decoder lost on the way, packet by packet.

    Damage of a packet is damage of the frames that were decoded after it up to the next keyframe, in the
    order of decoding: frames come later and in another order, and a keyframe that has arrived may still be
    waiting.

    Attributes:
        num_lost: packets that could not be decoded since the last frame.
        num_lost_in_all: the same since the start.
        num_shown: packets that should each show a frame.
        num_frames: frames that came.
        num_leading: before the first one that came: a file cut out of another may lack what they lean on.
        refusal: what the decoder said of the last packet that it refused.
        num_timeless: packets that may show a frame, but say no time.
        is_by_gap: that the last frame is damaged is told by a gap in time alone.
        is_after_loss: before the last frame others should have come, which the decoder rightly did not build
            on what is missing.
        num_refused: so many of them, of a decoder that refuses all that leans on what is lost.
    """

    def __init__(
        self, codec: str = "", decoder: VideoCodecContext | None = None, is_witnessed: bool = False
    ) -> None:
        """
        Args:
            codec: FFmpeg's name of it.
            decoder: the stream's own where it is not given, still unused.
            is_witnessed: a second decoder looks at packets of HEVC, which takes as long again.
        """
        self.codec, self._decoder = codec, decoder
        self._numbers = FrameNumbers(decoder.extradata) if decoder and codec == "h264" else None
        self._is_prompt = decoder is not None and decoder.name in PROMPT
        self._top_layer = top_layer(decoder.extradata) if decoder and codec == "hevc" else None
        self._witness = Libde265(decoder.extradata) if decoder and is_witnessed and codec == "hevc" else None
        self.num_lost = self.num_lost_in_all = self.num_shown = self.num_frames = 0
        self.num_leading = self.num_timeless = self.num_refused = 0
        self.refusal = ""
        self.is_after_loss = self.is_by_gap = False
        self._order = self._group = 0  # packets and keyframes so far
        self._awaited: set[float] = set()  # times of frames
        self._places: dict[float, tuple[int, int]] = {}  # group and order by time, of frames that will come
        self._starts_s: dict[int, float] = {}  # of groups
        self._hurt: dict[int, int] = {}  # groups and the packet from which on they are damaged
        self._late: dict[int, int] = {}  # the same by a gap in time alone
        self._has_gaps = False  # of a decoder that is exact
        self._is_stuck = False  # such a one, since it could not decode a packet
        self._hurt_leaves: set[int] = set()  # packets that are damaged, on which nothing is built
        self._keys_s: set[float] = set()  # times of keyframes to come, of a decoder that does not mark them
        self._aspect = plausible(decoder.sample_aspect_ratio) if decoder else None  # of the first pixel
        self._aspects: dict[int, float] = {}  # groups in which it is another, so many times the first
        self._num_keys = 0  # keyframes that came out

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames that come out with a packet."""
        is_shown = packet.size > 0 and packet.pts is not None and not packet.is_discard
        is_shown = is_shown and not is_hidden(packet, self.codec)
        if self._numbers and packet.size > 0:
            is_shown = not self._numbers.look(bytes(packet), packet.is_keyframe).is_second and is_shown
        self.num_shown += is_shown
        self.num_timeless += packet.size > 0 and packet.pts is None
        if packet.size > 0:
            self._order, self._group = self._order + 1, self._group + packet.is_keyframe
            if packet.pts is not None:
                time_s = _seconds(packet.pts, packet.time_base)
                self._places[time_s] = (self._group, self._order)
                if is_shown:
                    self._awaited.add(time_s)
                if packet.is_keyframe:
                    self._starts_s[self._group] = time_s
                    if self._is_prompt:
                        self._keys_s.add(time_s)
        if self._is_stuck and self._decoder and packet.is_keyframe:
            self._decoder.flush_buffers()  # dav1d refuses whole pictures too after some that lack others
            self._is_stuck = False
        with complaints() as said:
            frames, is_refused = self._given(packet)
        is_refused &= packet.size > 0  # an empty one is Theora's way to say: the same picture again
        if (is_refused and not frames) or (is_shown and not frames and self._is_prompt):
            is_refused = True
            self.num_lost, self.num_lost_in_all = self.num_lost + 1, self.num_lost_in_all + 1
        is_damage = (said or is_refused) and not is_spared(self.codec, said)
        if self._witness and packet.size > 0:
            for more in packet.iter_sidedata():
                if more.data_type == "new_extradata":
                    self._witness.take_settings(bytes(more))
                    self._top_layer = top_layer(bytes(more))
            is_damage |= self._witness.complains(bytes(packet))
        if is_damage:
            if self.codec in _EXACT:
                self._has_gaps = self._is_stuck = True  # what it refuses will be missed
            elif is_leaf(packet, self.codec, self._top_layer) and not speaks_of_others(said):
                self._hurt_leaves.add(self._order)
            else:
                self._hurt.setdefault(self._group, self._order)
        of_key = self._decoder if packet.is_keyframe else None
        if of_key and (aspect := plausible(of_key.sample_aspect_ratio)):
            self._aspect = self._aspect or aspect
            if aspect != self._aspect:
                self._aspects[self._group] = float(aspect / self._aspect)
        return frames

    def _given(self, packet: av.Packet) -> tuple[list[av.VideoFrame], bool]:
        """The frames that the decoder gives with a packet, and whether it refuses it or a part of it."""
        frames, is_refused = list[av.VideoFrame](), False
        for part in apart(packet) if self.codec in _EXACT and self._decoder else [packet]:
            try:
                frames += self._decoder.decode(part) if self._decoder else part.decode()  # type: ignore[arg-type]
            except av.FFmpegError as error:
                is_refused, self.refusal = True, str(error)
        return frames, is_refused

    def is_key(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is built on no other."""
        if not self._is_prompt and not (frame.key_frame and self.codec == "av1"):
            return bool(frame.key_frame)
        time_s = _seconds(frame.pts, frame.time_base)
        if time_s in self._keys_s:
            self._keys_s = {known for known in self._keys_s if known > time_s}
            return True
        if not frame.key_frame or self.codec != "av1" or time_s not in self._places:
            return bool(frame.key_frame)
        group, _ = self._places[time_s]
        return self._starts_s.get(group) == time_s

    def aspect_change(self, frame: av.VideoFrame) -> float:
        """How many times as wide a pixel is as at first; asked of each frame, before `is_damaged`."""
        self._num_keys += bool(frame.key_frame)
        if not self._aspects:
            return 1.0
        latest = self._num_keys if frame.pts is None else self._group  # raw streams have no times
        group, _ = self._places.get(_seconds(frame.pts, frame.time_base), (latest, 0))
        return self._aspects.get(group, 1.0)

    def is_damaged(self, frame: av.VideoFrame, is_key: bool, is_after_gap: bool = False) -> bool:
        """Whether a frame is damaged: reported so, or built on what is, up to the next keyframe.

        Args:
            is_key: whether it is built on no other.
            is_after_gap: frames before it are missing, on which it may be built.
        """
        self.num_frames += 1
        time_s = _seconds(frame.pts, frame.time_base)
        group, order = self._places.pop(time_s, (self._group, self._order))
        num_passed = sum(known < time_s for known in self._awaited)
        self.num_leading += num_passed if self.num_frames == 1 else 0
        self.is_after_loss = num_passed > 0 and self.codec in _REFUSING
        self._awaited = {known for known in self._awaited if known > time_s}
        for known in [known for known in self._places if known < time_s - _FORGOTTEN_S]:
            del self._places[known]
        if self.codec in _EXACT:
            self.num_refused = num_passed if self.num_frames > 1 else 0
            self._has_gaps |= is_after_gap or self.num_refused > 0
        is_hurt = is_after_gap and not is_key and self.codec not in _EXACT
        is_corrupt = frame.is_corrupt and order not in self._hurt_leaves
        if is_corrupt or (is_hurt and self.is_numbered):
            self._hurt[group] = min(order, self._hurt.get(group, order))
        elif is_hurt:
            # one that is shown later may have been decoded before, and lean on what is missing
            coming = [known for of, known in self._places.values() if of == group]
            self._late[group] = min(order, *coming, self._late.get(group, order))
        is_leading = time_s < self._starts_s.get(group, time_s)  # built on the group before as well
        is_sure, is_late = (
            hurt.get(group, order + 1) <= order or (is_leading and group - 1 in hurt)
            for hurt in (self._hurt, self._late)
        )
        is_sure |= order in self._hurt_leaves
        is_late |= is_after_gap and not is_key and self.codec in _EXACT
        self.is_by_gap = is_late and not is_sure
        return is_sure or is_late

    @property
    def is_numbered(self) -> bool:
        """Whether a gap is no pause, as pictures have numbers."""
        return self.codec in _NUMBERED

    @property
    def has_losses(self) -> bool:
        return bool(self._hurt or self._late or self._hurt_leaves or self._has_gaps)

    def check(self, path: str, last_s: float, is_whole: bool) -> None:
        """Refuse a file at whose end frames are missing.

        Args:
            last_s: time of the last frame.
            is_whole: whether the file was read from its start, so that frames can be counted.

        Raises:
            MediaError: the last packets gave no frame; or the decoder lost frames without an error.
        """
        if self.num_lost:
            raise MediaError(
                "lost_packets",
                f"{path}: the last {self.num_lost} packets cannot be decoded, after {last_s:.3f} s",
            )
        if self._has_gaps and self._awaited and self.num_frames:
            # the last frame may stand in a lost one's place
            raise MediaError(
                "lost_packets",
                f"{path}: the last {len(self._awaited)} packets gave no frame, after {last_s:.3f} s",
            )
        num_missing = self.num_shown - self.num_frames - self.num_lost_in_all - self.num_leading
        if is_whole and num_missing > max(2, MISSING_SHARE * self.num_shown):
            raise MediaError(
                "missing_frames",
                f"{path}: {self.num_shown} packets gave {self.num_frames} frames, and the decoder reports no "
                "error",
            )

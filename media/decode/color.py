"""Colour: any decoded frame to 8-bit BT.709 RGB.

SDR frames go through swscale with the matrix and range the frame declares. PQ and HLG frames are tone mapped
by a stated rule: to linear light with 203 nits as diffuse white (ITU-R BT.2408), BT.2020 to BT.709 primaries,
an extended Reinhard curve on the largest of the three with white at 1000 nits, sRGB gamma. Which of the two
was done is recorded per source as `transfer`.
"""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np

_GREY = "grayf32"
_FLOATS = ("gbrpf", "gbrapf", _GREY)
LINEAR, PQ, HLG = 8, 16, 18  # ITU-T H.273 transfer characteristics
_WITHOUT_ALPHA = {"bgra": "bgr0", "argb": "0rgb", "rgba": "rgb0", "abgr": "0bgr"}
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0
_BT2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)


def transfer_name(frame: av.VideoFrame) -> str:
    """`sdr`, `pq` or `hlg`."""
    return {PQ: "pq", HLG: "hlg"}.get(int(frame.color_trc), "sdr")


def _pq_to_nits(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 EOTF."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = np.power(np.clip(code, 0, 1), 1 / m2)
    return 10000.0 * np.power(np.maximum(power - c1, 0) / (c2 - c3 * power), 1 / m1)


def _hlg_to_nits(code: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 inverse OETF and the BT.2100 OOTF at 1000 nits (gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code * code / 3, (np.exp((code - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
    return 1000.0 * scene * np.power(np.maximum(luminance, 1e-6), 0.2)[..., None]


def tone_map(code: np.ndarray, transfer: str) -> np.ndarray:
    """HDR code values in [0, 1] with BT.2020 primaries, [H, W, 3], to 8-bit RGB."""
    nits = (_pq_to_nits if transfer == "pq" else _hlg_to_nits)(code.astype(np.float32))
    linear = np.maximum((nits / _WHITE_NITS) @ _BT2020_TO_709.T, 0)
    most = linear.max(-1)  # on luminance, saturated colours would be clipped, and change their hue
    white = _PEAK_NITS / _WHITE_NITS
    mapped = np.minimum(most * (1 + most / white**2) / (1 + most), 1)
    linear = linear * (mapped / np.maximum(most, 1e-6))[..., None]
    return _srgb(linear)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Light, 1 for white, as 8-bit sRGB; what is brighter is white."""
    linear = np.clip(linear, 0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)
    return np.rint(gamma * 255).astype(np.uint8)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame may be see-through: two or four parts, of which the last is no colour; or a palette."""
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def without_alpha(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture where its fourth byte says nothing, as in AVI without a codec."""
    name = _WITHOUT_ALPHA.get(frame.format.name)
    return frame.reformat(format=name) if name else frame


def is_plain(frame: av.VideoFrame) -> bool:
    """Neither HDR nor light itself nor see-through nor grey floats: swscale alone converts it."""
    is_other = is_light(frame) or has_alpha(frame) or frame.format.name.startswith(_GREY)
    return transfer_name(frame) == "sdr" and not is_other


def is_light(frame: av.VideoFrame) -> bool:
    """Whether a frame's numbers are light itself, as they are in Radiance's and OpenEXR's pictures."""
    return int(frame.color_trc) == LINEAR and frame.format.name.startswith(_FLOATS)


def _in_three(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame of grey floats as one of colours: swscale would take it for film's range, black at 16."""
    if not frame.format.name.startswith(_GREY):
        return frame
    return av.VideoFrame.from_ndarray(
        np.stack([frame.to_ndarray()] * 3, axis=-1).astype(np.float32), "gbrpf32le"
    )


def over_white(rgba: np.ndarray) -> np.ndarray:
    """[H, W, 4] to [H, W, 3]: see-through pixels are laid over white, as a browser page shows them."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def to_rgb(frame: av.VideoFrame, width: int, height: int, scale: Callable[..., av.VideoFrame]) -> np.ndarray:
    """A decoded frame as [height, width, 3] uint8 RGB, scaled by area averaging when smaller.

    Args:
        scale: `(frame, width, height, pixel format, method) -> frame`, which may keep its set-up between
            calls.
    """
    transfer = transfer_name(frame)
    method = "BILINEAR" if (width, height) == (frame.width, frame.height) else "AREA"
    if transfer != "sdr":
        if has_alpha(frame):
            four = scale(frame, width, height, "rgba64le", method).to_ndarray().astype(np.uint16)
            alpha = (four[..., 3:] >> 8).astype(np.uint8)
            if alpha.min() < 255:
                shown = tone_map(four[..., :3].astype(np.float32) / 65535.0, transfer)
                return over_white(np.concatenate([shown, alpha], axis=2))
        wide = scale(frame, width, height, "rgb48le", method).to_ndarray()
        return tone_map(wide.astype(np.float32) / 65535.0, transfer)
    if is_light(frame):
        four = scale(_in_three(frame), width, height, "rgba64le", method).to_ndarray().astype(np.uint16)
        light, cover = four[..., :3] / np.float32(65535), four[..., 3:] / np.float32(65535)
        return _srgb(light + (1 - cover))  # OpenEXR's light is that of the covered part already
    frame = _in_three(frame)
    if has_alpha(frame):
        return over_white(scale(frame, width, height, "rgba", method).to_ndarray())
    return scale(frame, width, height, "rgb24", method).to_ndarray()

"""What each drop, failure and rejection means and what to do about it: the one list of their words.

A drop is on purpose: a rule left the item out. A failure is by accident: something could not be read or done.
`docs/faults.md` shows these lists; a test compares it, and the words in the code, with them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One word, in plain text.

    Attributes:
        meaning: what happened to the item.
        next_step: what one can do; empty if nothing need be done.
    """

    meaning: str
    next_step: str = ""


DROPS = {
    "exact_duplicate": Reason("Another source has the same bytes."),
    "opened": Reason("A tar or a folder that could not be read before: what is in it are sources now."),
    "transition": Reason("Frames of a fade or a dissolve: they belong to no shot."),
    "lost_frames": Reason("Packets of the file that gave no frame.", "Fetch the file again."),
    "damaged_frames": Reason(
        "Up to the next keyframe: the decoder complained, frames are missing, or that keyframe mended the "
        "picture.",
        "Fetch the file again.",
    ),
    "too_short": Reason("A shot shorter than `--curate.min-clip-s`.", "Lower it."),
    "no_picture": Reason(
        "A few frames beside a gap, within the time of a picture that was kept of the shot before.",
        "Fetch the file again.",
    ),
    "no_shot_starts_here": Reason("A segment in which no shot starts: the one before it has the frames."),
    "removed": Reason("It was taken down (`rushes remove`) and is not taken in again."),
    "near_duplicate": Reason(
        "A copy of a clip that is kept. It is only marked: the default view leaves it out.",
        "Give the view another predicate.",
    ),
    "no_caption_accepted": Reason(
        "Every caption of the clip was rejected.", "See `reasons` in table captions; try another captioner."
    ),
    "out_of_domain": Reason(
        "The trained captioner withheld its captions: the clip is unlike what it was trained on.",
        "Use another captioner (`rushes recaption`).",
    ),
}

FAILURES = {
    "access_denied": Reason("One may not read it.", "Check permissions or credentials."),
    "address": Reason("The address is none.", "Correct it in the list."),
    "bad_tar": Reason("A tar is cut or damaged.", "Fetch the tar again."),
    "sealed_elsewhere": Reason(
        "The key in its address was sealed by another user (`media/bytes/sealed.py`).",
        "Set RUSHES_SEAL to the secret of who planned it, or give its list again.",
    ),
    "cut": Reason("The bytes ended before the end.", "Fetch the file again, or check its store."),
    "decoder_died": Reason(
        "The process that decoded it died of it, or answered nonsense.",
        "Play the file; convert it with ffmpeg.",
    ),
    "decode": Reason("The decoder gave up.", "Play the file; convert it with ffmpeg."),
    "empty": Reason("The file has no bytes.", "Fetch it again."),
    "frame_count_differs": Reason(
        "A clip gave another number of frames than curation saw.", "The file may have changed: verify it."
    ),
    "grey_frames": Reason("All frames are the grey of a decoder without data.", "Fetch the file again."),
    "http_status": Reason("The server answers with an error.", "Check the address in a browser."),
    "image_decode": Reason("The picture cannot be decoded.", "Open it; save it anew."),
    "implausible_clock": Reason("The file's times have a gap of hours.", "Remux it with ffmpeg -c copy."),
    "lost_packets": Reason("Packets were read that gave no frame.", "Fetch the file again."),
    "memory_limit": Reason(
        "Its decoder needs more memory than one may have; or the process grew beyond `item_limit_bytes` "
        "on it, twice (shown as `poison`).",
        "Raise `RUSHES_MAX_PIXELS` or the limit.",
    ),
    "no_name": Reason("A row of a list names no file.", "Correct the list."),
    "missing": Reason("There is no such file, object or member.", "Check the address."),
    "missing_frames": Reason("The decoder gave fewer frames than the file has.", "Fetch the file again."),
    "no_answer": Reason("The captioner gave no answer.", "See the server's log; `rushes retry`."),
    "no_decoder": Reason("The codec cannot be decoded by this build.", "Convert it with ffmpeg."),
    "not_finite": Reason(
        "The VAE gave a latent that is not finite.",
        "Encode by another VAE, or with `--encode.precision fp32`.",
    ),
    "no_frames": Reason("The file gave no frame.", "Play it; fetch it again."),
    "no_host": Reason("The address's host has no name or cannot be resolved.", "Check the address."),
    "no_packets": Reason("The video stream has no packets.", "Fetch the file again."),
    "no_ranges": Reason(
        "The server gives no byte ranges, and the file is too large to take whole.", "Download it."
    ),
    "name_not_utf8": Reason("The file's name is no UTF-8.", "Rename it."),
    "not_media_file": Reason("A file that is neither media nor a description of media."),
    "no_space": Reason("The folder of temporary files is full.", "Set TMPDIR to a larger disk."),
    "no_video": Reason("The file has no video stream."),
    "not_media": Reason(
        "The file is no video and no image.", "Look what it is with `file`; fetch it again if it is cut."
    ),
    "raw_photograph": Reason(
        "A photograph as the sensor saw it, or with a small copy in front.", "Develop it first."
    ),
    "encrypted": Reason(
        "The pictures are encrypted (CENC), and there is no key.", "Give it without its lock."
    ),
    "dolby_vision": Reason(
        "Dolby Vision in colours of its own, which only its players know.",
        "Convert it with a tool that does.",
    ),
    "colours": Reason("Its pixels are coded in a way that nothing here converts.", "Convert the file."),
    "lone_fields": Reason(
        "Each picture of the file is one field of an interlaced one, which is not woven here.",
        "Convert it with ffmpeg -vf weave,bwdif.",
    ),
    "archive": Reason(
        "The file is a packed archive, or a tar in a tar.", "Unpack it; plain tars are read as they are."
    ),
    "playlist": Reason(
        "A playlist, which would make the decoder open other files.", "List the files it names."
    ),
    "poison": Reason(
        "Its process died, hung or outgrew its limit on it, twice.", "See `cause`; convert the file."
    ),
    "private_address": Reason(
        "The address is of a private network.", "Allow it: RUSHES_HTTP_ALLOW_PRIVATE (docs/ingest.md)."
    ),
    "redirect": Reason("The server sends the reader to an address it may not follow.", "Give the final one."),
    "size_changes": Reason(
        "The picture's size changes midway, for a captioner that takes one size.", "Ingest it."
    ),
    "source_changed": Reason(
        "The file is not the one that was planned.", "Give it another name and ingest it."
    ),
    "time_limit": Reason(
        "No progress for `item_limit_s` on it, twice (shown as `poison`).", "Raise the limit."
    ),
    "timeout": Reason("No answer in time.", "Try later (`rushes retry`)."),
    "times_not_rising": Reason("The frames' times go backwards.", "Remux it with ffmpeg."),
    "tls": Reason(
        "The server's certificate is not trusted.", "Check the address and the time of the machine."
    ),
    "too_large": Reason(
        "The file, or its picture, is larger than the limit.", "Raise the limit that the message names."
    ),
    "unreachable": Reason("Nobody answers at the address.", "Try later (`rushes retry`)."),
    "unreadable": Reason("The bytes cannot be read.", "Try again; check the disk or the store."),
    "withdrawn_damaged": Reason(
        "What was made of it before a retry cannot be copied any more.", "`rushes retry` makes it again."
    ),
    "wrong_count": Reason("The fast decoder and the packets disagree on the number of frames.", "Report it."),
}
"""Besides these, an unforeseen error in one clip is a failure by the name of its Python exception."""

REJECTIONS = {
    "too_short": Reason("Fewer words than its kind should have."),
    "too_long": Reason("More words than its kind may have."),
    "cut_off": Reason("The answer ended at its most tokens.", "Raise `--caption.max-tokens`."),
    "schema": Reason("The answer is no JSON of the kind that was asked for, or lacks a field."),
    "refusal": Reason("The model refused."),
    "meta": Reason("It talks of the task, not of the clip."),
    "repetition": Reason("It repeats itself."),
    "repeated_ending": Reason("It ends in a loop."),
    "language": Reason("Too much of it is in another script."),
    "contradicts": Reason("It contradicts a measurement: camera, motion, main colour or number of cuts."),
    "alignment_percentile": Reason("Among the worst fitting ones (`--caption.low-alignment-share`)."),
    "look": Reason("The clip looks unlike the captioner's training clips (out of domain)."),
    "logprob": Reason("The captioner is less sure than on held-out clips (out of domain)."),
    "alignment": Reason("Text and clip are less alike than on held-out clips (out of domain)."),
}
"""The word before the colon in `reasons` of table captions."""

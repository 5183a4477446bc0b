"""What can go wrong through the user's inputs, and how the command line reports it.

Bad input raises :class:`M2raapError` naming the file, row or key and what to do. A clip or text that is refused is no
error: it gets a reason in a `dropped` table, one of :data:`UNREADABLE` or of its stage's `reasons`. A bug of m2raap fails an
assert.
"""

from __future__ import annotations

from collections.abc import Sequence


class M2raapError(Exception):
    """An error in the user's input. The message is one sentence or two: what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(M2raapError):
    """The command line or a recipe is wrong (exit code 2)."""

    exit_code = 2


class TooManyRefused(M2raapError):
    """The work is done, but nothing is left, or more inputs were unreadable than `--allow-refused` admits (exit code 3)."""

    exit_code = 3


class BudgetSpent(M2raapError):
    """What a stage may spend is spent before its work is done; a higher budget goes on (exit code 3)."""

    exit_code = 3


class ThresholdNotMet(M2raapError):
    """A quality threshold that the user gave is not met (exit code 4)."""

    exit_code = 4


def excerpt(value: object, max_chars: int = 200) -> str:
    """A value in a message, as Python writes it, cut to `max_chars`."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def listed(names: Sequence[str], most: int) -> str:
    """The names in a message: the first ones, and the number of the others: 'a, b and 3 more'."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# Why a video could not be read, by any stage that reads videos. These count against --allow-refused.
UNREADABLE: dict[str, str] = {
    "missing_file": "the video file is not there",
    "outside_root": "the video path is absolute, holds '..' or is a link that leaves the corpus root",
    "not_fetched": "the video is an address, and fetching it is not allowed or failed",
    "empty": "the file has no bytes",
    "bad_name": "a corpus cannot hold the file's name; rename the file, or let split cut copies",
    "bad_scene_list": "the scene list of the video is wrong, or is that of another video",
    "not_media": "the bytes are no video container",
    "refused_format": "a container or protocol that m2raap does not open (playlists, images, concat lists ...)",
    "no_video_stream": "the container holds no video",
    "header_missing": "the header or index (moov) of the file is missing or cut off",
    "unsupported_codec": "there is no decoder for the codec, or m2raap does not allow the codec",
    "too_large": "more pixels, bytes or streams than the limits allow",
    "truncated": "too much of the announced video is missing",
    "corrupt": "too many of the frames are damaged",
    "timeout": "decoding took longer than the limit",
    "out_of_memory": "decoding took more memory than the limit",
    "decoder_bug": "the decoder's process failed twice in a way that m2raap does not foresee; please report it",
}
# Reasons that may not apply later, on another machine, with another version of m2raap or with other HOW settings (time-outs,
# memory, permission to fetch). Clips with one of them are tried again when the stage is run with --force.
WORTH_ANOTHER_TRY = ("missing_file", "timeout", "out_of_memory", "not_fetched", "decoder_bug")
# The reason that every stage may give: all texts of a clip were dropped.
NO_TEXT_LEFT = "no_text_left"

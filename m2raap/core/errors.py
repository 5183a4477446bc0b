"""What can go wrong through the user's inputs, and how the command line reports it.

Bad input raises :class:`M2raapError` naming the file, row or key and what to do. A clip or text that is refused is no
error: it gets one of the codes in :data:`REASONS` in a `dropped` table. Bugs of ours are plain asserts.
"""

from __future__ import annotations


class M2raapError(Exception):
    """A fault in what the user gave us. The message is one sentence or two: what, where, what to do."""

    exit_code = 1


class UsageError(M2raapError):
    """The command line or a recipe is wrong (exit code 2)."""

    exit_code = 2


class TooManyRefused(M2raapError):
    """The work is done, but more inputs were unreadable than `--allow-refused` admits (exit code 3)."""

    exit_code = 3


class ThresholdNotMet(M2raapError):
    """A stated quality threshold is not met (exit code 4)."""

    exit_code = 4


# Every reason that may stand in a `dropped` table. `unreadable` ones count against --allow-refused.
UNREADABLE: dict[str, str] = {
    "missing_file": "the video file is not there",
    "outside_root": "the video path is absolute, holds '..' or is a link that leaves the corpus root",
    "not_fetched": "the video is an address, and fetching it is not allowed or failed",
    "empty": "the file has no bytes",
    "bad_name": "a corpus cannot hold the file's name; rename the file, or let split cut copies",
    "not_media": "the bytes are no video container",
    "refused_format": "a container or protocol that m2raap does not open (playlists, images, concat lists ...)",
    "no_video_stream": "the container holds no video",
    "header_missing": "the header or index (moov) of the file is missing or cut off",
    "unsupported_codec": "no decoder, or one outside the whitelist",
    "too_large": "more pixels or bytes than the limits allow",
    "truncated": "too much of the announced video is missing",
    "corrupt": "too many of the frames are damaged",
    "timeout": "decoding took longer than the limit",
    "out_of_memory": "decoding took more memory than the limit",
}
QUALITY: dict[str, str] = {
    "clip_too_short": "the clip is shorter than min_duration_s",
    "clip_too_long": "the clip is longer than max_duration_s",
    "clip_too_small": "the short side is under min_side_px",
    "too_few_frames": "fewer distinct good frames than the shortfall allows",
    "duplicate_clip": "a near-copy of a clip that is kept",
    "black": "too dark for too much of its time",
    "frozen": "nothing changes for too much of its time",
    "blurred": "its frames are too blurred",
    "still": "too little moves",
    "elongated": "one side is too many times the other",
    "user_score": "a score that came with --scores is on the wrong side of filter.scores",
    "balanced_out": "a good clip of a concept of which the corpus holds more than its share",
    "hostile_text": "an order to a program, a role tag, script or hidden characters instead of a description",
    "text_too_short": "fewer words (or characters, zh) than min",
    "text_too_long": "more words (or characters, zh) than max",
    "wrong_language": "the text is not in the language that its row states",
    "mojibake": "characters broken by a wrong encoding, beyond repair",
    "boilerplate": "mostly stock-footage or channel phrases",
    "machine_tags": "a tag list, file name or part-of-speech residue instead of a sentence",
    "repetition": "the same words again and again",
    "link": "an address, handle or hash tags instead of a description",
    "digits": "mostly numbers",
    "full_width": "too many full-width letters and digits",
    "traditional": "too many traditional characters",
    "unspecific": "no word that says what this clip shows",
    "duplicate_text": "the same text stands on too many clips for what it says",
    "frequent_in_source": "the same text stands on too large a share of the clips of its source",
    "near_duplicate_text": "texts that are almost this one stand on too many clips for what they say",
    "mismatch": "image and text do not belong together by the backbone's similarity",
    "rewrite_echo": "a model's text holds a link, a role tag, markup, or talks about its task",
    "rewrite_language": "a model's text is not in the language that was asked for",
    "rewrite_too_short": "a model's text has fewer words (characters, zh) than min_words",
    "rewrite_too_long": "a model's text does not fit into the backbone's context",
    "rewrite_script": "a model's text mixes simplified and traditional characters",
    "rewrite_numbers": "a model lost or invented a number",
    "rewrite_negation": "a model lost or invented a negation",
    "rewrite_names": "a model lost or invented a name",
    "rewrite_colours": "a model lost, invented or swapped a colour or a side",
    "rewrite_lost": "a model left out too much of what the original says",
    "rewrite_invented": "a model says too much that neither the text nor the frames say",
    "translation_length": "a translation is far too long or too short for its original",
    "translation_residue": "a translation is left half untranslated, or holds a tagger's marks",
    "rewrite_copies": "a model gave the same answer to too many different originals",
    "rewrite_similarity": "a model's text fits the frames worse than the original",
    "no_text_left": "no active text is left for the clip",
}
REASONS: dict[str, str] = UNREADABLE | QUALITY

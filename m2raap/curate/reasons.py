"""The reasons for which rules refuse clips, texts and rewritten texts: reason -> a sentence."""

from __future__ import annotations

VIDEO_REASONS: dict[str, str] = {
    "clip_too_short": "the clip is shorter than the limit",
    "clip_too_long": "the clip is longer than the limit",
    "clip_too_small": "the shorter side has fewer pixels than the limit",
    "elongated": "the ratio of the longer to the shorter side is above the limit",
    "black": "the clip is dark for too large a share of its duration",
    "frozen": "nothing changes for too large a share of the clip's duration",
    "blurred": "too large a share of the clip's frames is blurred",
    "still": "the clip has too little motion",
    "hdr": "the clip is HDR: its transfer function is PQ or HLG",
    "wide_gamut": "the clip's colour primaries are those of BT.2020",
    "size_changes": "the size or shape of the picture changes within the clip more often than the limit",
}
TEXT_REASONS: dict[str, str] = {
    "hostile_text": "the text is an order to a program, a role tag, script or hidden characters instead of a description",
    "text_too_short": "the text has fewer words (zh: characters) than the limit",
    "text_too_long": "the text has more words (zh: characters) than the limit",
    "wrong_language": "the text is not in the language that its row states",
    "mojibake": "a wrong encoding broke characters of the text beyond repair",
    "boilerplate": "the text consists mostly of phrases of stock-footage sites or channels",
    "machine_tags": "the text is a list of tags, a file name or a part-of-speech tagger's output instead of a sentence",
    "repetition": "the text repeats the same words again and again",
    "link": "the text is an address, handle or hash tags instead of a description",
    "digits": "the text consists mostly of numbers",
    "full_width": "the text has too many full-width letters and digits",
    "traditional": "the text has too many traditional characters",
    "unspecific": "no word of the text says what this clip shows",
    "duplicate_text": "too many clips have the same text (the more content words it has, the more clips may)",
    "frequent_in_source": "too large a share of the clips of one source has the same text",
    "near_duplicate_text": "too many clips have almost the same text (the more content words it has, the more clips may)",
}
REWRITE_REASONS: dict[str, str] = {
    "rewrite_echo": "a model's text holds a link, a role tag, markup, or talks about its task",
    "rewrite_language": "a model's text is not in the requested language",
    "rewrite_too_short": "a model's text has fewer words (zh: characters) than the limit",
    "rewrite_too_long": "a model's text does not fit into the backbone's context",
    "rewrite_script": "a model's text mixes simplified and traditional characters",
    "rewrite_numbers": "a model lost or invented a number",
    "rewrite_negation": "a model lost or invented a negation",
    "rewrite_names": "a model lost or invented a name",
    "rewrite_colours": "a model lost, invented or swapped a colour or a side",
    "rewrite_lost": "a model left out too much of what the original says",
    "rewrite_invented": "a model's text says too much that neither the original nor the captions of the frames say",
    "translation_length": "a translation is far too long or too short for its original",
    "translation_residue": "a translation is partly untranslated, or holds a tagger's marks",
    "rewrite_copies": "a model gave the same answer to too many different originals",
    "caption_unlike": "a caption of frames, in place of a text, fits the frames less than the floor",
    "caption_copies": "too large a share of the clips would get the same caption of frames as their text",
    "rewrite_similarity": "a model's text fits the frames worse than the original",
}

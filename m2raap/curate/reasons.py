"""What the rules refuse for, in sentences: reason -> what it says of a clip, a text, a rewritten text."""

from __future__ import annotations

VIDEO_REASONS: dict[str, str] = {
    "clip_too_short": "the clip is shorter than the limit",
    "clip_too_long": "the clip is longer than the limit",
    "clip_too_small": "the short side has fewer pixels than the limit",
    "elongated": "one side is too many times the other",
    "black": "too dark for too much of its time",
    "frozen": "nothing changes for too much of its time",
    "blurred": "its frames are too blurred",
    "still": "too little moves",
}
TEXT_REASONS: dict[str, str] = {
    "hostile_text": "an order to a program, a role tag, script or hidden characters instead of a description",
    "text_too_short": "fewer words (or characters, zh) than the limit",
    "text_too_long": "more words (or characters, zh) than the limit",
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
}
REWRITE_REASONS: dict[str, str] = {
    "rewrite_echo": "a model's text holds a link, a role tag, markup, or talks about its task",
    "rewrite_language": "a model's text is not in the language that was asked for",
    "rewrite_too_short": "a model's text has fewer words (characters, zh) than the limit",
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
}

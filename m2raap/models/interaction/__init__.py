"""Interactions: what scores pairs of a text and a clip by their parts (late interaction).

`units` are the parts, `pairs` brings them together, `mug`, `caption_guided` and `fine` score, `score` does so in bounded
memory, `registry` holds the names, `phrases` cuts texts into phrases.
"""

"""Twenty clips whose caption, id and path each try to become script: sixty texts. Tags that do the same."""

from __future__ import annotations

from tests.stages.pictures import COLOURS

_ATTACKS = (
    "<script>pwned=1</script>",
    "<img src=x onerror=pwned=1>",
    "<svg onload=pwned=1>",
    '"><script>pwned=1</script>',
    "'><img src=x onerror=pwned=1>",
    "</title><script>pwned=1</script>",
    "</textarea><svg/onload=pwned=1>",
    "javascript:pwned=1",
    '" onmouseover="pwned=1',
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "<a href=javascript:pwned=1>x</a>",
    "<math><mtext></form><form><mglyph><svg><mtext><style><path id='</style><img onerror=pwned=1 src>'>",
    "{{constructor.constructor('pwned=1')()}}",
    "${pwned=1}",
    "<!--<img src='--><img src=x onerror=pwned=1>//'>",
    "&lt;script&gt;pwned=1&lt;/script&gt;",
    "\u202e>tpircs<1=denwp",
    "</script><script>pwned=1//",
    "<object data='data:text/html,<script>pwned=1</script>'>",
    "<style>@import'//evil.example';</style>",
)
CAPTIONS = [f"caption {attack}" for attack in _ATTACKS]
IDS = [f"id{number} %2e%2e#?&{attack}" for number, attack in enumerate(_ATTACKS)]
PATHS = [f"{number} {attack}.mp4".replace("://", ":/") for number, attack in enumerate(_ATTACKS)]
TAGS = [f"tag {attack}" for attack in _ATTACKS] + ["\u2066\u200fcba\u202e \u200b\x1b[31m", "<b>" + "x" * 3000]
TEXTS = [*CAPTIONS, *IDS, *PATHS]
CLIPS = [
    {
        "clip_id": clip_id,
        "video": path,
        "colour": list(COLOURS)[number % 4],
        "texts": [("en", caption)],
        "source": "<b>s</b>",
    }
    for number, (clip_id, path, caption) in enumerate(zip(IDS, PATHS, CAPTIONS, strict=True))
]

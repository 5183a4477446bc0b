"""What makes a good pair of clip and text: rules, language, copies, similarity, captioners, rewriters and fidelity rules.

The public function of the package is `refusals`. Importing it loads nothing else; the first call loads the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2raap.curate.refusal import Refusal
    from m2raap.curate.text_rules import FilterTextConfig

__all__ = ["refusals"]


def refusals(text: str, lang: str, cfg: FilterTextConfig | None = None) -> list[Refusal]:
    """Every text rule that refuses a caption, the deciding one first; empty for a good caption.

    `text`: one caption. `lang`: "en" or "zh". `cfg`: limits of the rules, the default ones if None. A refusal has `reason`
    (explained in m2raap.curate.reasons), `signal`, `score` and `threshold`. Rules that need the whole corpus (copies, shares
    of all texts) are left out.

    >>> from m2raap.curate import refusals
    >>> refusals("A man is playing the guitar.", "en")
    []
    >>> for refusal in refusals("Royalty free stock footage, 4K, clip 00231", "en"):
    ...     print(refusal.reason, refusal.signal, refusal.score, refusal.threshold)
    boilerplate stock_share 1.0 0.7

    Raises M2raapError for a text that is no string and for another language.
    """
    from m2raap.core.errors import M2raapError
    from m2raap.curate.text_rules import RULES, FilterTextConfig, score_text

    if not isinstance(text, str):
        raise M2raapError(
            f"refusals: the argument 'text' has to be one string, and is of type {type(text).__name__}; "
            "call refusals once for each text"
        )
    return RULES.refusals(score_text(text, lang), (cfg or FilterTextConfig()).thresholds(lang))

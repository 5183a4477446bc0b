"""When a caption of frames, which no language model has checked, may become a text of its clip.

The retrieval captioner gives every frame the nearest caption of its list, also where none is right: with the tiny model nearly
half of 132 real clips are 'a bride and a groom'. So a caption needs a floor of similarity, and must not be that of many clips.
The floor of the tiny model and the share were chosen on one half of the clips of a synthetic world and of real clips; in the
other half they keep 98% of the right captions of the world (97 and 99% by language), and 19% of those of the real clips.
A wrong caption of the world passes as a right one does: the cosine does not tell them apart.
"""

from __future__ import annotations

from pydantic import Field

from m2raap.core.config import Config
from m2raap.curate.limits import Limit
from m2raap.curate.rules import Rule, RuleSet

# The mean cosine under which a caption does not fit the frames that it is given to, by backbone. That of other models is the
# one with which LAION-5B chose English pairs by CLIP ViT-B/32; models of other losses (SigLIP) have lower cosines.
FLOORS, OTHER_FLOOR = {"builtin:tiny": 0.5}, 0.28
FEWEST_COPIES = 3  # a caption of fewer clips is never that of many
CAPTION_RULES = RuleSet(
    (
        Rule("caption_unlike", 1, "caption_fit", "below", Limit(min=OTHER_FLOOR)),
        Rule("caption_copies", 1, "caption_share", "above", Limit(max=0.1)),
    )
)


class CaptionLimits(Config):
    """Limits on captions of frames that become texts without a language model."""

    floor: float | None = Field(
        default=None,
        description="Least mean cosine of a caption of the retrieval captioner and the frames that have it; null: 0.5 for "
        "builtin:tiny, 0.28 for other models. -1 lets every caption pass.",
    )
    copies: float | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the clips that get captions as texts which may get the same one; two clips always may. "
        "null: any share.",
    )

    def thresholds(self, backbone: str) -> dict[str, float]:
        """reason -> threshold. `backbone`: the name of the model with which captions were compared."""
        floor = FLOORS.get(backbone, OTHER_FLOOR) if self.floor is None else self.floor
        return {"caption_unlike": floor} | ({} if self.copies is None else {"caption_copies": self.copies})

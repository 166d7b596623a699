"""What a caller may choose about inference. The defaults are the published model's (FACTS of the released code)."""

from __future__ import annotations

from dataclasses import dataclass

from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """Numbers of the post-processing.

    Fields:
        alpha, beta: weight of CLIP's class evidence for seen and for unseen categories, in [0,1] (paper Eq. 3).
        object_threshold: a query takes part in the panoptic result when its best class probability is greater.
        overlap_threshold: a query's segment is dropped when (pixels won) / (pixels of its mask) is less.
        top_k: instances kept per image before non-things are dropped.
        things_only: instances keep only things (the published behaviour wherever panoptic evaluation is on).
        openseg: SAM masks vote for unseen categories in the semantic result (paper Eq. 4).
        epsilon: weight of SAM's votes, in [0,1].
        sam_min_probability: a SAM mask votes when its highest unseen probability is greater.
        sam_panoptic_weight: beyond the paper: with `openseg`, SAM masks take part in the panoptic result, too, with
            their class probability times this weight; 0, the paper's way, leaves them out.
        sam_only: the decoder is left out and SAM's masks, classified by CLIP alone, are the result (Table 4, row 1).
        shortest_side, longest_side: in pixels; the image is brought to the first, or less where the second
            would be passed.
    """

    alpha: float = 0.4
    beta: float = 0.8
    object_threshold: float = 0.0
    overlap_threshold: float = 0.8
    top_k: int = 100
    things_only: bool = True
    openseg: bool = False
    epsilon: float = 0.2
    sam_min_probability: float = 0.5
    sam_panoptic_weight: float = 0.0
    sam_only: bool = False
    shortest_side: int = 800
    longest_side: int = 1333

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "object_threshold", "overlap_threshold", "epsilon", "sam_min_probability"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UserInputError(f"inference option {name}: expected a number in [0, 1], found {value}")
        if self.sam_panoptic_weight < 0.0:
            raise UserInputError(
                f"inference option sam_panoptic_weight: expected a number >= 0, found {self.sam_panoptic_weight}"
            )
        if self.top_k < 1:
            raise UserInputError(f"inference option top_k: expected at least 1, found {self.top_k}")
        if not 32 <= self.shortest_side <= self.longest_side:
            raise UserInputError(
                "inference options shortest_side and longest_side: expected 32 <= shortest <= longest, found "
                f"{self.shortest_side} and {self.longest_side}"
            )

    @property
    def needs_sam_masks(self) -> bool:
        """True when the grid of points has to be run for these options."""
        return self.openseg or self.sam_only

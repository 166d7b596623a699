"""What a mask shows: text rows of a vocabulary, class logits, and the ensemble of decoder and CLIP."""

from frozenseg.classify.scores import class_logits, ensemble_class_scores
from frozenseg.classify.templates import VILD_TEMPLATES
from frozenseg.classify.text import embed_names, embed_vocabulary

__all__ = ["VILD_TEMPLATES", "class_logits", "embed_names", "embed_vocabulary", "ensemble_class_scores"]

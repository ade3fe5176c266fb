"""Priors: what is counted on training rows and joins a model's logits: items of histories, TF-IDF of texts."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.priors.hashed_words import check_word_prior as check_word_prior
    from promptgraft.objectives.priors.hashed_words import fit_word_prior as fit_word_prior
    from promptgraft.objectives.priors.hashed_words import hashed as hashed
    from promptgraft.objectives.priors.hashed_words import word_logits as word_logits
    from promptgraft.objectives.priors.item_counts import check_item_prior as check_item_prior
    from promptgraft.objectives.priors.item_counts import fit_item_prior as fit_item_prior
    from promptgraft.objectives.priors.item_counts import item_logits as item_logits
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

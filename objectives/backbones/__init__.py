"""Pretrained models by family: how each is loaded, frozen and read out."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.backbones.base import BACKBONES as BACKBONES
    from promptgraft.objectives.backbones.base import Backbone as Backbone
    from promptgraft.objectives.backbones.base import Keep as Keep
    from promptgraft.objectives.backbones.causal_lm import CausalScorer as CausalScorer
    from promptgraft.objectives.backbones.encoder import Encoder as Encoder
    from promptgraft.objectives.backbones.encoder import EncoderScorer as EncoderScorer
    from promptgraft.objectives.backbones.encoder import Pool as Pool
    from promptgraft.objectives.backbones.encoder import at_words as at_words
    from promptgraft.objectives.backbones.families import FAMILIES as FAMILIES
    from promptgraft.objectives.backbones.families import NANODET as NANODET
    from promptgraft.objectives.backbones.families import NUMERICS as NUMERICS
    from promptgraft.objectives.backbones.families import RT_DETR as RT_DETR
    from promptgraft.objectives.backbones.families import Architecture as Architecture
    from promptgraft.objectives.backbones.families import Family as Family
    from promptgraft.objectives.backbones.families import check_candidate as check_candidate
    from promptgraft.objectives.backbones.families import check_image_size as check_image_size
    from promptgraft.objectives.backbones.families import check_numerics as check_numerics
    from promptgraft.objectives.backbones.families import used_layers as used_layers
    from promptgraft.objectives.backbones.files.loading import explained_errors as explained_errors
    from promptgraft.objectives.backbones.files.model_files import check_family as check_family
    from promptgraft.objectives.backbones.files.model_files import count_layers as count_layers
    from promptgraft.objectives.backbones.files.model_files import file_hashes as file_hashes
    from promptgraft.objectives.backbones.files.model_files import guess_family as guess_family
    from promptgraft.objectives.backbones.files.model_files import model_folder as model_folder
    from promptgraft.objectives.backbones.files.model_files import model_type as model_type
    from promptgraft.objectives.backbones.files.model_files import weights_hash as weights_hash
    from promptgraft.objectives.backbones.label_scorers import Batch as Batch
    from promptgraft.objectives.backbones.label_scorers import EmbeddingScorer as EmbeddingScorer
    from promptgraft.objectives.backbones.label_scorers import LabelScorer as LabelScorer
    from promptgraft.objectives.backbones.label_scorers import VocabularyScorer as VocabularyScorer
    from promptgraft.objectives.backbones.recurrent import write_recurrent as write_recurrent
    from promptgraft.objectives.backbones.text_tokens import PromptTokens as PromptTokens
    from promptgraft.objectives.backbones.text_tokens import in_chat_template as in_chat_template
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

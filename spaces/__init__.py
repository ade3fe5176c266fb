"""What can be tried: templates, label words and parameters, and the candidates sampled from them."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.spaces.candidate_parts import Adapter as Adapter
    from promptgraft.spaces.candidate_parts import Decoding as Decoding
    from promptgraft.spaces.candidate_parts import Demonstrations as Demonstrations
    from promptgraft.spaces.candidate_parts import SoftPrompt as SoftPrompt
    from promptgraft.spaces.candidate_parts import parse_place as parse_place
    from promptgraft.spaces.candidates import DEFAULTS as DEFAULTS
    from promptgraft.spaces.candidates import Candidate as Candidate
    from promptgraft.spaces.custom_parameters import CUSTOM_PARAMETERS as CUSTOM_PARAMETERS
    from promptgraft.spaces.dimensions import DIMENSIONS as DIMENSIONS
    from promptgraft.spaces.dimensions import dimension_of as dimension_of
    from promptgraft.spaces.errors import InvalidInputError as InvalidInputError
    from promptgraft.spaces.errors import PromptgraftError as PromptgraftError
    from promptgraft.spaces.errors import TrialError as TrialError
    from promptgraft.spaces.errors import checked_path as checked_path
    from promptgraft.spaces.errors import did_you_mean as did_you_mean
    from promptgraft.spaces.facade import uncollected as uncollected
    from promptgraft.spaces.masking import MASK as MASK
    from promptgraft.spaces.masking import mask_logs as mask_logs
    from promptgraft.spaces.masking import masked as masked
    from promptgraft.spaces.masking import masked_url as masked_url
    from promptgraft.spaces.parameters import Categorical as Categorical
    from promptgraft.spaces.parameters import Condition as Condition
    from promptgraft.spaces.parameters import Constant as Constant
    from promptgraft.spaces.parameters import Float as Float
    from promptgraft.spaces.parameters import Integer as Integer
    from promptgraft.spaces.parameters import Parameter as Parameter
    from promptgraft.spaces.parameters import Scalar as Scalar
    from promptgraft.spaces.parameters import StudyFacts as StudyFacts
    from promptgraft.spaces.parameters import SuggestingTrial as SuggestingTrial
    from promptgraft.spaces.parameters import check_can_hold as check_can_hold
    from promptgraft.spaces.parameters import extremes as extremes
    from promptgraft.spaces.plugins import Registry as Registry
    from promptgraft.spaces.plugins import plugin_versions as plugin_versions
    from promptgraft.spaces.search_space import BACKBONE as BACKBONE
    from promptgraft.spaces.search_space import SearchSpace as SearchSpace
    from promptgraft.spaces.search_space import check_parameter as check_parameter
    from promptgraft.spaces.template_edits import Blocks as Blocks
    from promptgraft.spaces.template_edits import cross as cross
    from promptgraft.spaces.template_edits import join_blocks as join_blocks
    from promptgraft.spaces.template_edits import margins as margins
    from promptgraft.spaces.template_edits import mutate as mutate
    from promptgraft.spaces.template_edits import with_words as with_words
    from promptgraft.spaces.templates import LABEL_FIELD as LABEL_FIELD
    from promptgraft.spaces.templates import Block as Block
    from promptgraft.spaces.templates import RenderedPrompt as RenderedPrompt
    from promptgraft.spaces.templates import Template as Template
    from promptgraft.spaces.templates import break_up as break_up
    from promptgraft.spaces.templates import content_id as content_id
    from promptgraft.spaces.templates import form_score as form_score
    from promptgraft.spaces.verbalizers import Verbalizer as Verbalizer
    from promptgraft.spaces.verbalizers import words_of_name as words_of_name
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

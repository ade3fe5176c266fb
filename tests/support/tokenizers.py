"""Small tokenizers of every style, trained on a few sentences; all have the special tokens of their kind."""

from pathlib import Path
from typing import Any

SENTENCES = [
    f"The {thing} was {word} for me, and number {number} is good or bad, terrible or great, negative or "
    "positive, a waste or worth every penny. Review: Sentiment: All in all, it was"
    for number in range(10)
    for thing in ("lamp", "kettle", "book", "film")
    for word in ("great", "awful", "solid", "broken")
]
ANGLED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SQUARE = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
STYLES = ("word pieces", "byte pairs", "unigrams", "whole words")


def write_clip_tokenizer(folder: Path, texts: list[str], *, ended: bool = True) -> int:
    """Write a tokenizer of byte pairs whose tokens of beginning and end are the last, as CLIP's are.

    Args:
        folder: Where to.
        texts: Texts that it is trained on.
        ended: Whether it puts the end token behind a text.

    Returns:
        Its number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    begin, end = "<|startoftext|>", "<|endoftext|>"
    made.add_special_tokens([begin, end])
    special = [(name, made.token_to_id(name)) for name in (begin, end)]
    pattern = f"{begin} $A {end}" if ended else f"{begin} $A"
    made.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=special)
    roles = {"bos_token": begin, "eos_token": end, "pad_token": end, "unk_token": end}
    PreTrainedTokenizerFast(tokenizer_object=made, **roles).save_pretrained(folder)
    return int(made.get_vocab_size())


def write_tokenizer(style: str, folder: Path, **changes: Any) -> int:
    """Write a tokenizer as transformers loads it.

    Args:
        style: One of `STYLES`.
        folder: Where to.
        **changes: What transformers is told of it in place of the usual, such as `pad_token=None`.

    Returns:
        Its number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = list(SQUARE if style in ("word pieces", "whole words") else ANGLED)
    characters = list("abcdefghijklmnopqrstuvwxyz<>/[]|_")
    if style == "word pieces":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=400, special_tokens=names, initial_alphabet=characters)
    elif style == "byte pairs":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, initial_alphabet=alphabet)
    elif style == "unigrams":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=names, unk_token="<unk>", initial_alphabet=characters
        )
    else:
        made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=names)
    made.train_from_iterator(SENTENCES, trainer)
    begin, _, end = names[:3]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 0), (end, 2)]
    )
    roles = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), names, strict=True))
    roles |= {"bos_token": begin, "eos_token": end}
    PreTrainedTokenizerFast(tokenizer_object=made, **{**roles, **changes}).save_pretrained(folder)
    return int(made.get_vocab_size())

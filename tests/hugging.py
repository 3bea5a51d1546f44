"""Small random models of transformers with their tokenizers, saved to a folder and loaded from it, as a user would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ("a", "the", "good", "bad", "film", "plot", "was", "not", "very", "play", "un", "who", "made", "it", "in", "paris", "anna")
SIGNS = ("?", ".", ",")
PIECES = ("##ing", "##able", "##s", "##believ")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = "the play was not unbelievable , anna ."


def quiet() -> Any:
    """Transformers, which says nothing."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Larger weights than a library begins with, which would hardly change any score."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.8 * parameter.shape[-1] ** -0.5)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.7)
    return model.eval()


def wordpiece() -> Any:
    """A tokenizer of BERT's kind."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate((*SPECIAL, *WORDS, *SIGNS, *PIECES))}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return quiet().PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{kind}_token": word for kind, word in names.items()},
    )


def byte_level() -> Any:
    """A tokenizer of GPT-2's kind, trained on a few sentences; it has no padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([f" {w} {w}s" for w in WORDS] * 20, trainer)
    return quiet().PreTrainedTokenizerFast(tokenizer_object=made, **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"))


def sentencepiece() -> Any:
    """A tokenizer of T5's kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = [(f"\u2581{word}", -3.0) for word in (*WORDS, *SIGNS)]
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *words, ("s", -4.0)]
    made = Tokenizer(models.Unigram(scores, unk_id=2))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return quiet().PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def saved(folder: Path, model: nn.Module, tokenizer: Any = None) -> Path:
    """The model, and its tokenizer, as `save_pretrained` writes them."""
    model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, kind: str) -> nn.Module:
    """The model of a folder, in double precision."""
    found: nn.Module = getattr(quiet(), kind).from_pretrained(folder, local_files_only=True).double().eval()
    return found


def bert(folder: Path, kind: str = "BertForSequenceClassification", labels: Sequence[str] = ("NEG", "POS"), **options: Any) -> Path:
    """BERT for any purpose, with its tokenizer."""
    tokenizer = wordpiece()
    ids = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = quiet().BertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, pad_token_id=0, **SIZES, **ids, **options)
    return saved(folder, lively(getattr(quiet(), kind)(config)), tokenizer)


def distilbert(folder: Path) -> Path:
    """DistilBERT that tells NEG from POS."""
    tokenizer = wordpiece()
    labels = {"id2label": {0: "NEG", 1: "POS"}, "label2id": {"NEG": 0, "POS": 1}}
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 24}
    config = quiet().DistilBertConfig(vocab_size=len(tokenizer), **sizes, **labels)
    return saved(folder, lively(quiet().DistilBertForSequenceClassification(config)), tokenizer)


def gpt2(folder: Path) -> Path:
    """GPT-2, which goes on with a text."""
    tokenizer = byte_level()
    config = quiet().GPT2Config(vocab_size=len(tokenizer), n_positions=48, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return saved(folder, lively(quiet().GPT2LMHeadModel(config)), tokenizer)


def llama(folder: Path) -> Path:
    """Llama, which goes on with a text; its queries share keys."""
    tokenizer = byte_level()
    config = quiet().LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=48, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, **SIZES
    )
    return saved(folder, lively(quiet().LlamaForCausalLM(config)), tokenizer)


def t5(folder: Path) -> Path:
    """T5, which answers a text with a text."""
    tokenizer = sentencepiece()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    config = quiet().T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, **sizes)
    return saved(folder, lively(quiet().T5ForConditionalGeneration(config)), tokenizer)


def vit(folder: Path, labels: Sequence[str] = ("cat", "dog", "cow")) -> Path:
    """A vision transformer with its image processor."""
    transformers = quiet()
    ids = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_channels=3, **SIZES, **ids)
    return saved(folder, lively(transformers.ViTForImageClassification(config)))

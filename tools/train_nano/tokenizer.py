"""A small byte-level BPE tokenizer in the Qwen2 layout, trained on prompts and answers."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
           "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
           "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
SYSTEM = "You are a helpful assistant."
NO_LABEL = -100
_PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Special tokens take the last ids. Texts too few to fill `vocab` give a smaller one."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False, min_frequency=2))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return t


@dataclass(frozen=True)
class Dialog:
    ids: list[int]  # from <|vision_end|> on
    labels: list[int]  # the answers' ids in their places, NO_LABEL elsewhere


class ChatFormat:
    """ChatML around one image, as the exported chat template writes it."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.id = {s: tokenizer.token_to_id(s) for s in SPECIAL}
        start, self.end = self.id["<|im_start|>"], self.id["<|im_end|>"]
        newline = self.encode("\n")
        self.before = [start, *self.encode(f"system\n{SYSTEM}"), self.end, *newline, start,
                       *self.encode("user\n"), self.id["<|vision_start|>"]]
        self._to_assistant = [self.end, *newline, start, *self.encode("assistant\n")]
        self._to_user = [*newline, start, *self.encode("user\n")]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, prompt: str) -> list[int]:
        """Ids from <|vision_end|> up to where the answer begins."""
        return [self.id["<|vision_end|>"], *self.encode(prompt), *self._to_assistant]

    def dialog(self, turns: Sequence[tuple[str, str]]) -> Dialog:
        """Several prompts about the same image, one after the other."""
        ids, labels = [self.id["<|vision_end|>"]], [NO_LABEL]
        for i, (prompt, answer) in enumerate(turns):
            asked = [*(self._to_user if i else []), *self.encode(prompt), *self._to_assistant]
            answered = [*self.encode(answer), self.end]
            ids += asked + answered
            labels += [NO_LABEL] * len(asked) + answered
        return Dialog(ids, labels)

"""Text to ids for both text encoders, and which ids make up a word; knows nothing of networks, needs no MLX.

A folder with ordinary Hugging Face tokenizer files goes in. The ids are those of transformers 5, made by the
`tokenizers` library that it stands on, which is imported with the first folder: 0.05 s instead of 2 s.
"""

from __future__ import annotations

import json
import re
import reprlib
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fluxnb.errors import CheckpointError, InputError
from fluxnb.model import spiece

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]+")
"""A word with the apostrophes inside it, or a run of punctuation."""

SPACE = "▁"
"""How T5's tokens spell a space; alone, it is a token of the word behind it."""

EXTRA_IDS, MOST_EXTRA_IDS = 100, 1000
"""Ids that every T5 has behind its pieces if its config names no other number, and how many are believed."""

CLIP_PARTS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP looks at as one word (openai/CLIP `simple_tokenizer.py`)."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a prompt, or a run of punctuation, and the positions of all its tokens among T5's.

    Attributes:
        text: as it stands in the prompt.
        tokens: positions, 0 for the first token; never empty, rising.
    """

    text: str
    tokens: tuple[int, ...]


class ClipTokenizer:
    """Byte-pair ids of a prompt: start token, prompt, end token, padding.

    Attributes:
        length: ids of every prompt, 77 for FLUX.1.
        end_id: id of the end token.
        pad_id: id of the padding; FLUX.1 pads with the end token.
        size: ids that there are.
    """

    def __init__(self, folder: str | Path):
        """Reads vocab.json and merges.txt, or else tokenizer.json, and tokenizer_config.json.

        Args:
            folder: the `tokenizer` of a checkpoint.

        Raises:
            CheckpointError: a file is missing or is not what it should be.
        """
        folder = Path(folder)
        config = _config(folder)
        vocab, merges = _vocabulary(folder)
        start, end, unknown, pad = (
            _token(config, f"{role}_token", default, folder)
            for role, default in (
                ("bos", "<|startoftext|>"),
                ("eos", "<|endoftext|>"),
                ("unk", "<|endoftext|>"),
                ("pad", "<|endoftext|>"),
            )
        )
        lacking = [token for token in (start, end, unknown, pad) if token not in vocab]
        if lacking:
            raise CheckpointError(
                f"the vocabulary in {folder} lacks the token {lacking[0]} that tokenizer_config.json names; "
                "download the folder again"
            )
        self.length = _length(config, folder)
        self.end_id, self.pad_id = vocab[end], vocab[pad]
        self._start_id = vocab[start]
        # transformers finds <|STARTOFTEXT|> too, where the files say that the token is normalised
        added = config.get("added_tokens_decoder", {}).values()
        normalized = {token["content"] for token in added if token.get("normalized")}
        special = {token: token in normalized for token in (start, end, pad)}
        try:
            self._tokenizer = _byte_pairs(vocab, merges, unknown, special)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(
                f"{folder} holds no byte-pair vocabulary as CLIP has it ({error}); download it again"
            ) from error
        self.size = max(vocab.values()) + 1

    def encode(self, text: str) -> tuple[tuple[int, ...], str | None]:
        """Gives the ids of a prompt, cut or padded to `length`.

        Returns:
            ids, `length` of them, and the end of the prompt that had to be cut off, None if nothing had.

        Raises:
            InputError: half of a surrogate pair, which is no character.
        """
        encoding = _encode(self._tokenizer, text)
        kept, cut = _cut(encoding, text, self.length - 2)
        ids = (self._start_id, *kept, self.end_id)
        return ids + (self.pad_id,) * (self.length - len(ids)), cut


class T5Tokenizer:
    """Unigram ids of a prompt: prompt, end token, padding.

    Attributes:
        length: ids of every prompt: 512 for FLUX.1-dev, 256 for FLUX.1-schnell.
        end_id: id of the end token.
        pad_id: id of the padding.
        size: ids that there are.
    """

    def __init__(self, folder: str | Path, longest: int | None = None):
        """Reads tokenizer.json, or else spiece.model, and tokenizer_config.json.

        Args:
            folder: the `tokenizer_2` of a checkpoint.
            longest: most ids of a prompt, if that is less than the files allow.

        Raises:
            CheckpointError: a file is missing or is not what it should be.
        """
        folder = Path(folder)
        config = _config(folder)
        self._tokenizer = _unigram(folder, config)
        self.size = self._tokenizer.get_vocab_size()
        length = _length(config, folder)
        self.length = length if longest is None else min(length, longest)
        self.end_id = _id(self._tokenizer, _token(config, "eos_token", "</s>", folder), folder)
        self.pad_id = _id(self._tokenizer, _token(config, "pad_token", "<pad>", folder), folder)

    def encode(self, text: str) -> tuple[tuple[int, ...], str | None]:
        """Gives the ids of a prompt, cut or padded to `length`.

        Returns:
            ids, `length` of them, and the end of the prompt that had to be cut off, None if nothing had.

        Raises:
            InputError: half of a surrogate pair, which is no character.
        """
        kept, cut = _cut(_encode(self._tokenizer, text), text, self.length - 1)
        return (*kept, self.end_id) + (self.pad_id,) * (self.length - 1 - len(kept)), cut

    def end(self, text: str) -> int:
        """Gives the position of the end token; the prompt lies before it, padding after it."""
        return min(len(_encode(self._tokenizer, text).ids), self.length - 1)

    def words(self, text: str) -> tuple[Word, ...]:
        """Splits a prompt into words and punctuation, each with all its tokens.

        Every token of the prompt belongs to one word, but for trailing spaces and control characters. What
        one token covers is one word, so `...` is, and `1,000` where a token reaches across its comma. Words
        that `encode` cuts off are not there.

        Raises:
            InputError: half of a surrogate pair, which is no character.
        """
        spans = [match.span() for match in WORD.finditer(text)]
        lefts, rights = [left for left, _ in spans], [right for _, right in spans]
        encoding = _encode(self._tokenizer, text)
        groups: list[tuple[int, int, list[int]]] = []  # first span, last span, tokens
        waiting: list[int] = []  # tokens of nothing but a space: they open the next word
        for position, (token, (start, end)) in enumerate(zip(encoding.tokens, encoding.offsets, strict=True)):
            first, last = bisect_right(rights, start), bisect_left(lefts, end) - 1  # spans that it overlaps
            if token == SPACE or first > last:
                waiting.append(position)
                continue
            tokens = [*waiting, position]
            if groups and first <= groups[-1][1]:  # the word before has a token more
                first, _, before = groups.pop()
                tokens = before + tokens
            groups.append((first, last, tokens))
            waiting = []
        words = []
        for first, last, tokens in groups:
            kept = tuple(position for position in tokens if position < self.length - 1)
            if kept:
                words.append(Word(text[spans[first][0] : spans[last][1]], kept))
        return tuple(words)


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """Encodes text without start and end tokens, or says why it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the prompt has half of a surrogate pair, {text[error.start]!r}, at position {error.start}, "
            "which is no character; take it out"
        ) from error
    return tokenizer.encode(text, add_special_tokens=False)


def _cut(encoding: Encoding, text: str, room: int) -> tuple[list[int], str | None]:
    """Gives the first `room` ids, and the text that the others stood for, None if it is but space."""
    if len(encoding.ids) <= room:
        return encoding.ids, None
    return encoding.ids[:room], text[encoding.offsets[room][0] :].strip() or None


def _byte_pairs(
    vocab: dict[str, int], merges: list[tuple[str, str]], unknown: str, special: dict[str, bool]
) -> Tokenizer:
    """Builds CLIP's tokenizer, as transformers 5 does whatever a tokenizer.json says.

    Args:
        vocab: ids.
        merges: pairs to be joined, the first ones first.
        unknown: token of what is not in `vocab`.
        special: tokens that are found in a prompt as a whole, and whether after lowercasing.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    parts = pre_tokenizers.Split(Regex(CLIP_PARTS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [parts, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=normal) for token, normal in special.items()]
    )
    return tokenizer


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Reads ids and merges of a byte-pair tokenizer."""
    if (folder / "vocab.json").exists() or not (folder / "tokenizer.json").exists():
        vocab = _json(folder / "vocab.json")
        lines = _text(folder / "merges.txt").split("\n")
        merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    else:
        model = _json(folder / "tokenizer.json").get("model", {})
        vocab, merges = model.get("vocab"), model.get("merges")
    try:
        return dict(vocab), [_pair(merge) for merge in merges]
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no byte-pair vocabulary as CLIP has it ({error}); download it again"
        ) from error


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Reads a merge in either form that files have: "a b" or ["a", "b"]."""
    left, right = merge.split() if isinstance(merge, str) else merge
    return left, right


def _unigram(folder: Path, config: dict) -> Tokenizer:
    """Reads T5's vocabulary; what comes before it is as transformers 5 has it for any T5."""
    from tokenizers import Tokenizer

    path, original = folder / "tokenizer.json", folder / "spiece.model"
    if path.exists() or not original.exists():
        parts = _json(path)
    else:
        path, parts = original, _from_sentencepiece(original, config)
    try:
        steps = parts["normalizer"].get("normalizers", [parts["normalizer"]]) if parts["normalizer"] else []
        maps = [step for step in steps if step["type"] == "Precompiled"]
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
        parts |= {
            "normalizer": {"type": "Sequence", "normalizers": maps},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "truncation": None,
            "padding": None,
        }
        return Tokenizer.from_str(json.dumps(parts))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is no tokenizer ({error!r}); download it again") from error


def _from_sentencepiece(path: Path, config: dict) -> dict:
    """Reads spiece.model, which is all that transformers saved of a T5 tokenizer before version 5."""
    extra_ids = config.get("extra_ids", EXTRA_IDS)
    if type(extra_ids) is not int or not 0 <= extra_ids <= MOST_EXTRA_IDS:
        raise CheckpointError(
            f"{path.parent}: extra_ids is {reprlib.repr(extra_ids)}, which should be an integer in "
            f"0..{MOST_EXTRA_IDS}; download it again"
        )
    try:
        return spiece.tokenizer_json(path.read_bytes(), extra_ids)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path} is no model of SentencePiece ({error}); download it again") from error


def _config(folder: Path) -> dict:
    """Reads tokenizer_config.json."""
    return _json(folder / "tokenizer_config.json")


def _length(config: dict, folder: Path) -> int:
    """Reads how many ids a prompt may have."""
    length = config.get("model_max_length")
    if not isinstance(length, (int, float)) or not 3 <= length <= 1 << 20:
        raise CheckpointError(
            f"model_max_length in {folder / 'tokenizer_config.json'} is {length!r}, expected a number of "
            "tokens such as 77 for CLIP or 512 for T5; download it again"
        )
    return int(length)


def _token(config: dict, role: str, default: str, folder: Path) -> str:
    """Reads a special token, written as a string or as a record."""
    token = config.get(role) or default
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str):
        raise CheckpointError(
            f"{role} in {folder / 'tokenizer_config.json'} is {token!r}, expected a text; download it again"
        )
    return token


def _id(tokenizer: Tokenizer, token: str, folder: Path) -> int:
    """Looks up a special token."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} lacks the token {token} that tokenizer_config.json names; "
            "download the folder again"
        )
    return number


def _json(path: Path) -> dict:
    """Reads a JSON object."""
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object; download it again")
    return value


def _text(path: Path) -> str:
    """Reads a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; download the folder again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again") from error

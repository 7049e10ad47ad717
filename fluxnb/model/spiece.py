"""T5's spiece.model, as SentencePiece writes it, to what a tokenizer.json says; needs no SentencePiece.

The file is a message of Protocol Buffers, of which three things count: the pieces with their scores, the kind
of model, and the table by which characters are replaced before. Knows nothing of folders or prompts.
Source: google/sentencepiece `sentencepiece_model.proto`.
"""

import base64
import struct
from collections.abc import Iterator

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # how a field is written
PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the model
PIECE, SCORE, KIND = 1, 2, 3  # fields of a piece
MODEL_KIND, UNIGRAM = 3, 1  # field of the trainer, and its value if left out
CHARACTER_MAP = 2  # field of the normalizer
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of piece


def tokenizer_json(data: bytes, extra_ids: int) -> dict:
    """Gives what the tokenizer.json of the same tokenizer says.

    Args:
        data: of spiece.model.
        extra_ids: tokens `<extra_id_0>` ... that T5 has behind the pieces, the last first.

    Raises:
        ValueError: it is no model of pieces with scores (unigram).
    """
    vocab, special, steps, unknown = [], [], [], None
    for field, value in _fields(data):
        if field == PIECES:
            piece = dict(_fields(value))
            kind = piece.get(KIND, NORMAL)
            if kind == UNKNOWN:
                unknown = len(vocab)
            text = piece[PIECE].decode()
            if kind in (UNKNOWN, CONTROL):
                special.append((len(vocab), text))
            vocab.append((text, piece.get(SCORE, 0.0)))
        elif field == TRAINER and dict(_fields(value)).get(MODEL_KIND, UNIGRAM) != UNIGRAM:
            raise ValueError("its pieces have no scores")
        elif field == NORMALIZER and (table := dict(_fields(value)).get(CHARACTER_MAP)):
            steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()})
    if unknown is None:
        raise ValueError("it has no piece for what is unknown")
    for i in reversed(range(extra_ids)):
        special.append((len(vocab), f"<extra_id_{i}>"))
        vocab.append((f"<extra_id_{i}>", 0.0))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in special],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": False},
    }


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Walks through the fields of a message: their numbers and values."""
    place = 0

    def whole() -> int:
        nonlocal place
        number, shift = 0, 0
        while True:
            if place >= len(data) or shift > 63:
                raise ValueError("it is cut off")
            byte = data[place]
            number, shift, place = number | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                return number

    while place < len(data):
        key = whole()
        field, form = key >> 3, key & 7
        if form == VARINT:
            yield field, whole()
            continue
        if form not in (DOUBLE, BYTES, FLOAT):
            raise ValueError("it is no model of SentencePiece")
        size = {DOUBLE: 8, FLOAT: 4}.get(form) or whole()
        value, place = data[place : place + size], place + size
        if place > len(data):
            raise ValueError("it is cut off")
        yield field, struct.unpack("<f", value)[0] if form == FLOAT else value

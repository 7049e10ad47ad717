"""The ids are those that transformers gives, and every token finds its word.

Tokenizers: a tiny pair made here, the demo model's, and FLUX.1's own where they are at hand: in the folder
that FLUXNB_TOKENIZERS names, or in shared/ beside the repository (tokenizer_1 is CLIP's, tokenizer_2 T5's).
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_checkpoint as tiny

from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer, Word
from fluxnb.training import tokenizers as demo

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("FLUXNB_TOKENIZERS", ROOT.parent / "shared" / "data" / "flux-tokenizers"))
KINDS = ("tiny", "demo", *(("real",) if REAL.is_dir() else ()))
PROMPTS = (
    "",
    " ",
    "a cat",
    "A photo of a CAT to the left of a sunflower, blue background",
    "a cat " * 400,
    "don't stop the cats' 3 o'clock tea… it\u2019s 1,000.50 €!!",
    "\tcat\n\ncat\r\n  cat\u00a0cat\u2003cat\u200bcat\u0085cat",
    "café cafe\u0301 Ünïcödé \u017ftraße İstanbul ﬁne \uff21 \u212a",
    "日本の猫 кошка قطة नि ไทย 🐱 👨\u200d👩\u200d👧 ❤\ufe0f",
    "<|startoftext|> <|ENDOFTEXT|> </s> <pad> <unk> <extra_id_3> ▁ </w>",
    "x\x00y\x01\x1c\x7f\ufeff",
    "A\u0301Z\u0308",
    "zebra-striped xylophone_player @ 50% #tag (c) [d] {e} a/b\\c",
    "a" * 2000,
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Gives the two tokenizer folders of each kind."""
    base = tmp_path_factory.mktemp("tokenizers")
    tiny.write_clip_tokenizer(base / "clip")
    tiny.write_t5_tokenizer(base / "t5")
    demo.build(base / "demo")
    return {
        "tiny": (base / "clip", base / "t5"),
        "demo": (base / "demo" / "tokenizer", base / "demo" / "tokenizer_2"),
        "real": (REAL / "tokenizer_1", REAL / "tokenizer_2"),
    }


def strange_prompts():
    """Gives 300 prompts of random characters of all planes, and of what tokenizers trip over."""
    rng = random.Random(0)
    pieces = [
        *"abcXYZ  ,.'\t\n-é1",
        "日",
        "🐱",
        "\u00a0",
        "\u200b",
        "▁",
        "</s>",
        "<pad>",
        "ﬁ",
        "\u0301",
        "\x01",
    ]
    pieces += ["cat ", "<|endoftext|>", "<|STARTOFTEXT|>", "İ", "\u2028", "'s", "ß", "\u0085", "\x1c", "नि"]
    for _ in range(150):
        yield "".join(rng.choice(pieces) for _ in range(rng.choice((3, 12, 60))))
        yield "".join(
            chr(rng.choice((rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x20000)))) for _ in range(20)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_and_what_is_cut_off_is_told(folders, kind):
    transformers = pytest.importorskip("transformers")
    clip_folder, t5_folder = folders[kind]
    for ours, theirs in (
        (ClipTokenizer(clip_folder), transformers.CLIPTokenizer.from_pretrained(clip_folder)),
        (T5Tokenizer(t5_folder), transformers.T5TokenizerFast.from_pretrained(t5_folder)),
    ):
        for text in (*PROMPTS, *strange_prompts()):
            expected = theirs(text, padding="max_length", max_length=ours.length, truncation=True).input_ids
            ids, cut = ours.encode(text)
            assert list(ids) == expected, text
            if cut is not None:
                assert text.rstrip().endswith(cut)
                assert len(theirs(text).input_ids) > ours.length


def test_a_prompt_is_cut_where_the_room_ends(folders):
    tokenizer = T5Tokenizer(folders["tiny"][1])
    assert tokenizer.length == 12
    assert tokenizer.encode("a cat " * 5)[1] is None
    assert tokenizer.encode("a cat " * 5 + "a" + " " * 9)[1] is None
    assert tokenizer.encode("a cat " * 5 + "a dog a cat")[1] == "dog a cat"
    assert ClipTokenizer(folders["tiny"][0]).encode("cat " * 14 + "dog cat")[1] == "dog cat"


def test_an_empty_prompt_is_end_and_padding(folders):
    clip, t5 = ClipTokenizer(folders["tiny"][0]), T5Tokenizer(folders["tiny"][1])
    assert clip.encode("") == ((1, 3) + (3,) * 14, None)
    assert t5.encode("") == ((1,) + (0,) * 11, None)
    assert t5.end("") == 0
    assert t5.words("") == ()


@pytest.mark.parametrize("text", ["a cat", "a </s> cat", "cat " * 100])
def test_the_end_token_is_where_the_prompt_ends(folders, text):
    tokenizer = T5Tokenizer(folders["tiny"][1])
    ids, end = tokenizer.encode(text)[0], tokenizer.end(text)
    assert ids[end] == tokenizer.end_id
    assert set(ids[end + 1 :]) <= {tokenizer.pad_id}
    assert [position for word in tokenizer.words(text) for position in word.tokens] == list(range(end))


def test_longest_only_shortens(folders):
    assert T5Tokenizer(folders["tiny"][1], longest=5).length == 5
    assert T5Tokenizer(folders["tiny"][1], longest=500).length == 12


def test_a_word_is_all_its_tokens_and_punctuation_stands_apart(folders):
    tokenizer = T5Tokenizer(folders["tiny"][1])
    assert tokenizer.words("a cat, a sunflower... dog") == (
        Word("a", (0,)),
        Word("cat", (1,)),
        Word(",", (2,)),
        Word("a", (3,)),
        Word("sunflower", (4, 5)),
        Word("...", (6,)),
        Word("dog", (7,)),
    )


def test_an_unseen_word_keeps_its_pieces_together(folders):
    tokenizer = T5Tokenizer(folders["tiny"][1])
    assert tokenizer.words("a zoo 日") == (Word("a", (0,)), Word("zoo", (1, 2, 3, 4)), Word("日", (5, 6)))


def test_an_apostrophe_belongs_to_its_word_and_a_quote_does_not(folders):
    tokenizer = T5Tokenizer(folders["demo"][1])
    assert [word.text for word in tokenizer.words("'don't' it\u2019s")] == ["'", "don't", "'", "it\u2019s"]


def test_words_that_are_cut_off_are_not_there(folders):
    tokenizer = T5Tokenizer(folders["tiny"][1], longest=4)
    assert tokenizer.words("a cat sunflower dog") == (
        Word("a", (0,)),
        Word("cat", (1,)),
        Word("sunflower", (2,)),
    )


def test_the_same_word_twice_is_two_words(folders):
    cats = [word for word in T5Tokenizer(folders["tiny"][1]).words("a cat a cat") if word.text == "cat"]
    assert [word.tokens for word in cats] == [(1,), (3,)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_belongs_to_one_word(folders, kind):
    tokenizer = T5Tokenizer(folders[kind][1])
    for text in PROMPTS:
        if not any(ord(character) < 32 for character in text) and text.strip():
            positions = [position for word in tokenizer.words(text) for position in word.tokens]
            assert positions == list(range(tokenizer.end(text))), text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "real"] or ["demo"])
def test_a_token_that_reaches_across_punctuation_joins_it(folders, kind):
    words = [word.text for word in T5Tokenizer(folders[kind][1]).words("1,000 cats")]
    assert words == (["1,000", "cats"] if kind == "real" else ["1", ",", "000", "cats"])


def test_half_of_a_surrogate_pair_is_refused(folders):
    for tokenizer in (ClipTokenizer(folders["tiny"][0]), T5Tokenizer(folders["tiny"][1])):
        with pytest.raises(InputError, match=r"half of a surrogate pair, '\\ud83d', at position 4"):
            tokenizer.encode("cat \ud83d")


def test_clip_is_read_from_tokenizer_json_alone(folders, tmp_path):
    clip_folder = folders["tiny"][0]
    vocab = json.loads((clip_folder / "vocab.json").read_text())
    model = {"type": "BPE", "vocab": vocab, "merges": ["c a", ["ca", "t</w>"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    (tmp_path / "tokenizer_config.json").write_bytes((clip_folder / "tokenizer_config.json").read_bytes())
    assert ClipTokenizer(tmp_path).encode("a cat")[0] == ClipTokenizer(clip_folder).encode("a cat")[0]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("clip/vocab.json", None, "vocab.json is missing"),
        ("clip/vocab.json", "{", "is not JSON"),
        ("clip/vocab.json", '{"a": 0}', "lacks the token <|startoftext|>"),
        ("clip/merges.txt", None, "merges.txt is missing"),
        ("clip/merges.txt", "a b c", "no byte-pair vocabulary"),
        ("clip/merges.txt", "q u", "no byte-pair vocabulary"),
        ("clip/tokenizer_config.json", None, "tokenizer_config.json is missing"),
        ("clip/tokenizer_config.json", "[]", "holds a list, expected an object"),
        ("clip/tokenizer_config.json", "{}", "model_max_length in"),
        ("clip/tokenizer_config.json", '{"model_max_length": 9, "eos_token": [1]}', "eos_token in"),
        ("t5/tokenizer_config.json", '{"model_max_length": 9, "eos_token": {"a": 1}}', "eos_token in"),
        ("t5/tokenizer.json", "[" * 100_000, "is not JSON"),
        ("t5/tokenizer.json", None, "tokenizer.json is missing"),
        ("t5/tokenizer.json", "{}", "is no tokenizer"),
        ("t5/tokenizer_config.json", '{"model_max_length": 1e30}', "model_max_length in"),
        (
            "t5/tokenizer_config.json",
            '{"model_max_length": 9, "eos_token": "<end>"}',
            "lacks the token <end>",
        ),
    ],
)
def test_a_broken_folder_is_one_sentence(tmp_path, file, content, words):
    tiny.write_clip_tokenizer(tmp_path / "clip")
    tiny.write_t5_tokenizer(tmp_path / "t5")
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match="download") as caught:
        ClipTokenizer(tmp_path / "clip"), T5Tokenizer(tmp_path / "t5")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def message(*fields):
    """Writes fields of Protocol Buffers: a number and bytes, a float or a whole number below 128 each."""
    written = b""
    for number, value in fields:
        if isinstance(value, float):
            written += bytes([number << 3 | 5]) + struct.pack("<f", value)
        elif isinstance(value, int):
            written += bytes([number << 3, value])
        else:
            size = len(value)
            written += bytes([number << 3 | 2, size & 127 | 128, size >> 7]) + value
    return written


def write_sentencepiece(folder, kind=1, unknown=2):
    """Writes the tiny tokenizer as spiece.model instead of tokenizer.json."""
    tiny.write_t5_tokenizer(folder)
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    special = {0: 3, 1: 3, 2: unknown}
    pieces = [
        (1, message((1, text.encode()), (2, score), *([(3, special[i])] if i in special else [])))
        for i, (text, score) in enumerate(vocab)
    ]
    return message(*pieces, (2, message((3, kind))), (3, message((1, b"identity"))))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "demo"])  # that has no spiece.model
def test_spiece_model_gives_the_ids_that_tokenizer_json_gives(kind, folders, tmp_path):
    folder = tmp_path / "t5"
    if kind == "tiny":
        written = write_sentencepiece(folder)
        (folder / "spiece.model").write_bytes(written)
    else:
        folder.mkdir()
        for name in ("spiece.model", "tokenizer_config.json"):
            shutil.copy(REAL / "tokenizer_2" / name, folder / name)
    ours, expected = T5Tokenizer(folder), T5Tokenizer(folders[kind][1])
    for text in (*PROMPTS, *strange_prompts(), "<extra_id_0> of <extra_id_99>"):
        assert ours.encode(text) == expected.encode(text)
        assert ours.words(text) == expected.words(text)
    assert (ours.size, ours.end_id, ours.pad_id) == (expected.size, expected.end_id, expected.pad_id)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-3], "it is cut off"),
        (lambda data: b"version https://git-lfs", "it is no model of SentencePiece"),
        (lambda data: b"", "it has no piece for what is unknown"),
    ],
)
def test_a_broken_spiece_model_is_one_sentence(tmp_path, change, words):
    data = change(write_sentencepiece(tmp_path / "t5"))
    (tmp_path / "t5" / "spiece.model").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"spiece\.model is no model of SentencePiece \({words}"):
        T5Tokenizer(tmp_path / "t5")


@pytest.mark.parametrize("extra_ids", [10**12, -1, "100", 2.0, True])
def test_ids_that_t5_cannot_have_are_not_believed(tmp_path, extra_ids):
    (tmp_path / "t5" / "spiece.model").write_bytes(write_sentencepiece(tmp_path / "t5"))
    config = json.loads((tmp_path / "t5" / "tokenizer_config.json").read_text())
    tiny.save_json(tmp_path / "t5" / "tokenizer_config.json", config | {"extra_ids": extra_ids})
    with pytest.raises(CheckpointError, match=r"extra_ids is .*, which should be an integer in 0\.\.1000"):
        T5Tokenizer(tmp_path / "t5")


def test_a_sentencepiece_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "t5" / "spiece.model").write_bytes(write_sentencepiece(tmp_path / "t5", kind=2))
    with pytest.raises(CheckpointError, match="its pieces have no scores"):
        T5Tokenizer(tmp_path / "t5")


def test_tokenizing_imports_no_transformers(folders):
    program = """
import sys
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer
assert "tokenizers" not in sys.modules
ClipTokenizer(sys.argv[1]).encode("a cat")
T5Tokenizer(sys.argv[2]).words("a cat")
assert "tokenizers" in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, *folders["tiny"]], cwd=ROOT, check=True)

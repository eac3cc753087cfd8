"""Compares `chord tokenize` with the Python library `tokenizers`, id by id.

On every row of golden.jsonl, and on random text of unpleasant kinds, for the Qwen tokenizer and for
chord-nano's. Added tokens found (--special) and not found (the default) are both checked. Runs under
pytest or as a program; the exit code is 0 when all agree, 77 when there is nothing to compare with.

    tokenizer_parity.py --chord build/bin/chord [--shared ../shared] [--random 20000] [--seed 1]
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]


def shared_folder(given=None):
    return pathlib.Path(given or os.environ.get("CHORD_SHARED") or ROOT.parent / "shared")


def chord_command(given=None):
    return str(given or os.environ.get("CHORD_BIN") or ROOT / "build/bin/chord")


def chord_ids(chord, folder, texts, special):
    command = [chord, "tokenize", "--model", str(folder)] + (["--special"] if special else [])
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.decode()}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def reference(folder, special):
    """With `special`, as transformers does. Without, the same tokenizer stripped of added tokens."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if not special:
        content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
INVISIBLE = "\x00\x01\x1c\x1f\x7f\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\ufe0f\ufeff\U000e0001\U000e0020\U000e007f"
DIGITS = "0123456789²³¼½¾٠٣۴߅०५৪๓༣၄៥᠓\u1810ⅣⅯↈ①⑳㊿㋿\U0001d7d8\U0001d7ff\U0001e950\U0001f101零一"
ASCII_WORDS = ["the ", " cat", "don't", "I'LL", "we've", "'s", "'ſ", "'re", "you'D", "\"", "\\", "()", "://", "=>", "a_b", "3.14", "x2", "  ", "\r\n", "\n\n", " \n ", "```json\n", '[{"bbox_2d": [12, 34, 567, 890], "label": "white vase"}]', "the white vase", "找到图里那个白色花瓶", "右下角的红色椅子", "框出每一个小蛋糕的位置"]
EMOJI = "😀🚗👍🏽👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈🇫🇷🇯🇵1️⃣©™☃"
MARKS = [c for c in range(0x300, 0x20000) if unicodedata.category(chr(c))[0] == "M"]
DECOMPOSABLE = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.decomposition(chr(c))]
# What Unicode 10 to 16 added to normalisation and to the categories.
RECENT = [0x7FD, 0x898, 0x8CA, 0x9FE, 0xC3C, 0xD3B, 0xEBA, 0x1715, 0x1ABF, 0x1ACE, 0x1DFA, 0xA82C,
          0x10D24, 0x10EAB, 0x10EFD, 0x10F46, 0x10F82, 0x11070, 0x1133B, 0x1145E, 0x11839, 0x11930,
          0x11935, 0x11938, 0x1193D, 0x16FF0, 0x1E08F, 0x1E130, 0x1E2AE, 0x1E4EC, 0x1C89, 0xA7CB,
          0x105C0, 0x105C9, 0x105D2, 0x10D40, 0x11382, 0x11383, 0x113BB, 0x113C5, 0x16121, 0x1611E,
          0x16D67, 0x16D68, 0x1E5EE, 0x1E5F1, 0x13460, 0x2EBF0, 0x0897, 0x10D69, 0x378, 0x2FFFF]


def any_of(rng, first, last):
    while True:
        c = rng.randint(first, last)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def atoms(added):
    """Functions that each give a short string of one unpleasant kind."""
    return [
        lambda r: r.choice(SPACES) * r.choice([1, 1, 1, 2, 3, 9]),
        lambda r: r.choice(INVISIBLE),
        lambda r: r.choice(DIGITS),
        lambda r: r.choice(ASCII_WORDS),
        lambda r: r.choice(EMOJI),
        lambda r: chr(r.choice(MARKS)) * r.choice([1, 1, 2]),
        lambda r: "".join(chr(r.choice(MARKS)) for _ in range(r.randint(2, 30))),
        lambda r: chr(r.choice(DECOMPOSABLE)),
        lambda r: unicodedata.normalize("NFD", chr(r.choice(DECOMPOSABLE))),
        lambda r: chr(r.choice(RECENT)),
        lambda r: r.choice("aeiouAEIOUnszZ") + chr(r.choice(MARKS)) + r.choice("\u0300\u0301\u0323\u0327\u0328"),
        lambda r: any_of(r, 0x20, 0x7E),
        lambda r: any_of(r, 0x80, 0x2FF),
        lambda r: any_of(r, 0x300, 0x1FFF),
        lambda r: any_of(r, 0x0590, 0x08FF),
        lambda r: any_of(r, 0x1100, 0x11FF),
        lambda r: any_of(r, 0xAC00, 0xD7A3) + r.choice(["", chr(r.randint(0x11A8, 0x11C2))]),
        lambda r: chr(r.randint(0x1100, 0x1112)) + chr(r.randint(0x1161, 0x1175)) + r.choice(["", chr(r.randint(0x11A8, 0x11C2))]),
        lambda r: any_of(r, 0x4E00, 0x9FFF),
        lambda r: any_of(r, 0xE000, 0xFAFF),
        lambda r: any_of(r, 0x10000, 0x1FFFF),
        lambda r: any_of(r, 0x20000, 0x10FFFF),
        lambda r: any_of(r, 0, 0x10FFFF),
        lambda r: r.choice("abcxyz ") * r.randint(1, 40),
        lambda r: r.choice(added) if added else "<|im_end|>",
        lambda r: r.choice(added)[:-1] if added else "<|im_end|",
    ]


def random_texts(count, seed, added):
    rng = random.Random(seed)
    kinds = atoms(added)
    for _ in range(count):
        some = rng.sample(kinds, rng.randint(1, 5))
        yield "".join(rng.choice(some)(rng) for _ in range(rng.randint(1, 24)))


def every_code_point():
    """Each code point between letters, after blanks, before digits and after a combining mark."""
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for i in range(0, len(points), 64):
        yield "".join(f"a{chr(c)}b {chr(c)}1  {chr(c)}\u0315{chr(c)}" for c in points[i : i + 64])


def compare(chord, folder, texts, special):
    """Returns how many texts were compared; raises at the first difference."""
    texts = list(texts)
    tokenizer = reference(folder, special)
    ours = chord_ids(chord, folder, texts, special)
    theirs = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    if len(ours) != len(texts):
        raise AssertionError(f"{len(texts)} lines in, {len(ours)} out")
    for text, a, b in zip(texts, ours, theirs):
        if a != b:
            raise AssertionError(f"special={special} {text!r}\n  chord     {a}\n  reference {b}")
    return len(texts)


def check_folder(chord, folder, count, seed, whole_unicode=True):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = [t["content"] for t in content["added_tokens"]]
    total = 0
    for special in (False, True):
        total += compare(chord, folder, random_texts(count, seed + special, added), special)
    if whole_unicode:
        total += compare(chord, folder, every_code_point(), False)
    total += compare(chord, folder, ["", "a" * 20000, "aB" * 5000, " " * 9000, "\u0301\u0323" * 3000,
                                     "<|im_end|>" * 500, "一" * 5000, "\n" * 7000], True)
    return total


def check_flags(chord, folder, count, seed):
    """Added tokens of every kind, some of them beginnings of others, with and without a normalizer."""
    rng = random.Random(seed)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    plain = len(content["added_tokens"])
    last = max([*content["model"]["vocab"].values(), *(t["id"] for t in content["added_tokens"])])
    names = ["<a>", "<a><b>", "[x", "[x]", "wo0rd", "wo0rds", "e\u0301te", " pad ", "你牍", "Ⓐ好"]
    names = [n for n in names if n not in content["model"]["vocab"]]
    total = 0
    with tempfile.TemporaryDirectory() as name:
        for round_ in range(8):
            del content["added_tokens"][plain:]
            for i, token in enumerate(rng.sample(names, 6)):
                flags = {key: rng.random() < 0.4 for key in ("lstrip", "rstrip", "single_word", "normalized")}
                content["added_tokens"].append({"id": last + 1 + 3 * i, "content": token, "special": rng.random() < 0.5, **flags})
            content["normalizer"] = {"type": "NFC"} if round_ % 4 else None
            path = pathlib.Path(name)
            (path / "tokenizer.json").write_text(json.dumps(content))
            added = [t["content"] for t in content["added_tokens"]]
            texts = list(random_texts(count, seed + round_, added + names * 3))
            total += compare(chord, path, texts, True)
    return total


def check_saved_again(chord, folder, count, seed):
    """What transformers writes when it saves the tokenizer again: loads, and encodes as before."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    added = list(tokenizer.get_added_vocab())
    texts = list(random_texts(count, seed, added))
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        again = pathlib.Path(name)
        ours = chord_ids(chord, again, texts, True)
        theirs = AutoTokenizer.from_pretrained(again)(texts)["input_ids"]
    before = chord_ids(chord, folder, texts, True)
    for text, a, b, c in zip(texts, ours, theirs, before, strict=True):
        if a != b or a != c:
            raise AssertionError(f"saved again: {text!r}\n  chord     {a}\n  reference {b}\n  before    {c}")
    return len(texts)


def check_post_processors(chord, folder):
    """Post-processors in every shape: the same ids as the reference adds none, or a refusal by name."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    token = content["added_tokens"][0]
    one, two = ({"Sequence": {"id": i, "type_id": t}} for i, t in (("A", 0), ("B", 1)))
    mark = {"SpecialToken": {"id": token["content"], "type_id": 0}}
    known = {token["content"]: {"id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]}}
    template = {"type": "TemplateProcessing", "single": [one], "pair": [one, two], "special_tokens": {}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    pair = [token["content"], token["id"]]
    cases = [None, byte_level, template, {**template, "special_tokens": known},
             {**template, "single": [mark, one], "special_tokens": known},
             {**template, "single": [one, mark], "special_tokens": known},
             {**template, "pair": [one, mark, two], "special_tokens": known},
             {"type": "BertProcessing", "sep": pair, "cls": pair},
             {"type": "RobertaProcessing", "sep": pair, "cls": pair, "trim_offsets": True, "add_prefix_space": True}]
    cases += [{"type": "Sequence", "processors": list(some)} for some in
              ([], [template], [byte_level, template], [template, byte_level, byte_level], [byte_level, cases[4]])]
    text = "a white vase"
    with tempfile.TemporaryDirectory() as name:
        for post in cases:
            content["post_processor"] = post
            (pathlib.Path(name) / "tokenizer.json").write_text(json.dumps(content))
            reference_ids = Tokenizer.from_str(json.dumps(content)).encode(text).ids
            try:
                ours = chord_ids(chord, pathlib.Path(name), [text], True)[0]
            except RuntimeError as refusal:
                if "post_processor" not in str(refusal) or token["id"] not in reference_ids:
                    raise AssertionError(f"{post}: refused: {refusal}") from refusal
                continue
            if ours != reference_ids:
                raise AssertionError(f"{post}\n  chord     {ours}\n  reference {reference_ids}")
    return len(cases)


def check_golden(chord, folder):
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    ours = chord_ids(chord, folder, [row["text"] for row in rows], special=True)
    for row, ids in zip(rows, ours):
        if ids != row["ids"]:
            raise AssertionError(f"{row['text']!r}\n  chord  {ids}\n  golden {row['ids']}")
    return len(rows)


def folders(shared):
    return [f for f in (shared / "data/qwen-tokenizer", ROOT / "models/chord-nano",
                        shared / "models/chord-nano") if (f / "tokenizer.json").exists()]


def test_golden_rows():
    import pytest

    folder = shared_folder() / "data/qwen-tokenizer"
    if not (folder / "golden.jsonl").exists() or not os.path.exists(chord_command()):
        pytest.skip("golden.jsonl or the chord program is absent")
    check_golden(chord_command(), folder)


def test_random_text():
    import pytest

    if not folders(shared_folder()) or not os.path.exists(chord_command()):
        pytest.skip("no tokenizer or no chord program")
    for folder in folders(shared_folder()):
        check_folder(chord_command(), folder, 5000, 1)
        check_flags(chord_command(), folder, 200, 1)


def test_saved_again():
    import pytest

    if not os.path.exists(chord_command()):
        pytest.skip("no chord program")
    for folder in folders(shared_folder()):
        check_post_processors(chord_command(), folder)
    check_saved_again(chord_command(), ROOT / "models/chord-nano", 2000, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chord")
    parser.add_argument("--shared")
    parser.add_argument("--random", type=int, default=20000, help="random texts per tokenizer and mode")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shared, chord = shared_folder(options.shared), chord_command(options.chord)
    if not folders(shared):
        print("no tokenizer found: nothing to compare")
        return 77
    try:
        if (shared / "data/qwen-tokenizer/golden.jsonl").exists():
            print(f"golden rows: {check_golden(chord, shared / 'data/qwen-tokenizer')} equal")
        nano = ROOT / "models/chord-nano"
        print(f"chord-nano saved again: {check_saved_again(chord, nano, options.random // 5, options.seed)} texts equal")
        for folder in folders(shared):
            print(f"{folder.name}: {check_post_processors(chord, folder)} post-processors as the reference or refused")
            print(f"{folder.name}: {check_folder(chord, folder, options.random, options.seed)} texts equal")
            print(f"{folder.name}, other added tokens: {check_flags(chord, folder, options.random // 20, options.seed)} texts equal")
    except (AssertionError, RuntimeError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

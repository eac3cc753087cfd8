"""Compares the evaluator of chat templates with transformers' renderer, text by text and id by id.

Every template of tests/common/jinja/corpus.py with every conversation of it, every small template,
and random variations of all of them: white-space marks, line ends, and pieces swapped between
templates. Both sides must render the same text, or both must refuse. Ids are compared where no text
of a request looks like a special token (where it does, Chord differs on purpose). The exit code is 0
when all agree, 77 when there is nothing to compare with.

    chat_template_parity.py build/tests/jinja_tool [--random 3000] [--seed 1]
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/common/jinja"))

import corpus  # noqa: E402
from make_golden import render  # noqa: E402

MODEL = ROOT / "models/chord-nano"


def ours(tool, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([tool, str(MODEL / "tokenizer.json")], input=lines.encode(), capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def random_marks(rng, template):
    """The same tags with other white space around them and other marks inside."""

    def tag(match):
        opening, inner, closing = match.group(1), match.group(2), match.group(3)
        opening += rng.choice(["", "-", "+"]) if opening != "{{" else rng.choice(["", "-"])
        closing = (rng.choice(["", "-", "+"]) if closing != "}}" else rng.choice(["", "-"])) + closing
        before, after = rng.choice(["", "", " ", "\n", "  \n\t", "\n  "]), rng.choice(["", "", " ", "\n", "\r\n", " \n "])
        return before + opening + " " + inner.strip("-+ ") + " " + closing + after

    return re.sub(r"(\{[{%])(.*?)([}%]\})", tag, template, flags=re.DOTALL)


def random_pieces(rng, templates):
    """Two templates cut between tags and put together: mostly wrong, and refused by both."""
    a, b = (re.split(r"(\{[{%].*?[}%]\})", t, flags=re.DOTALL) for t in rng.sample(templates, 2))
    i, j = rng.randrange(len(a)), rng.randrange(len(b))
    return "".join(a[:i] + b[j : j + rng.randint(1, 3)] + a[i:])


def requests(count, seed):
    rng = random.Random(seed)
    conversations = list(corpus.CONVERSATIONS.values())
    for template in corpus.TEMPLATES.values():
        for messages in conversations:
            yield template, messages
    for template in corpus.FEATURES:
        yield template, corpus.CONVERSATIONS["one image"]
    templates = list(corpus.TEMPLATES.values())
    both = templates + corpus.FEATURES
    for _ in range(count):
        yield random_marks(rng, rng.choice(both)), rng.choice(conversations)
        yield random_pieces(rng, templates), rng.choice(conversations)


# What Chord refuses on purpose although Jinja knows it, by what its message says.
REFUSED = ("is not supported", "in a call only", "has no text", "out of its scope", "supported as keys")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool")
    parser.add_argument("--random", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    cases = list(requests(options.random, options.seed))
    answers = ours(options.tool, [{"template": t, "messages": m} for t, m in cases])
    rendered = refused = 0
    differences = []
    for (template, messages), answer in zip(cases, answers, strict=True):
        text = render(template, messages)
        if text is None:
            refused += 1
            if "error" not in answer:
                differences.append(f"transformers refuses, Chord renders\n{template!r}\n{answer['text']!r}")
            continue
        if "error" in answer:
            if any(word in answer["error"] for word in REFUSED):
                refused += 1
                continue
            differences.append(f"Chord refuses: {answer['error']}\n{template!r}\n{text!r}")
            continue
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if answer["text"] != text or answer["ids"] != ids:
            differences.append(f"different\n{template!r}\n{messages}\n  chord        {answer['text']!r}\n  transformers {text!r}")
            continue
        rendered += 1
    if differences:
        print("\n\n".join(differences[:10]) + f"\n\n{len(differences)} differences")
        return 1
    print(f"{rendered} prompts equal, {refused} refused by both or for a construct by name")
    return 0


if __name__ == "__main__":
    sys.exit(main())

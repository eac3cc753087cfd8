"""Writes golden.json: what transformers makes of the corpus. Run it again only when the corpus changes:

    python make_golden.py golden.json
"""

import json
import sys

import corpus
from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def render(template, messages):
    """The text, or None where transformers raises an exception."""
    try:
        texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **TOKENS)
        return texts[0]
    except Exception:  # whichever: the evaluator has to refuse it as well
        return None


def main(out):
    rows = []
    for name, template in corpus.TEMPLATES.items():
        texts = [render(template, messages) for messages in corpus.CONVERSATIONS.values()]
        rows.append({"name": name, "template": template, "texts": texts})
    features = [{"template": t, "text": render(t, corpus.CONVERSATIONS["one image"])} for t in corpus.FEATURES]
    with open(out, "w", encoding="utf-8") as f:
        f.write('{"conversations":' + json.dumps(corpus.CONVERSATIONS, separators=(",", ":")) + ',\n"templates":[\n')
        f.write(",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + '],\n"features":[\n')
        f.write(",\n".join(json.dumps(row, separators=(",", ":")) for row in features) + "]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

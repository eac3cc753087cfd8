"""Finds one thing and draws it:  python ground.py URL IMAGE PROMPT [OUT.png]"""

import sys

from chord_client import ChordError, Client


def main() -> int:
    url, image, prompt = sys.argv[1:4]
    try:
        with Client(url) as chord:
            answer = chord.ground(image, prompt)
    except ChordError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for item in answer.objects:
        review = "  (review)" if item.needs_review else ""
        print(f"{item.label}: {tuple(item.box)} {item.confidence:.2f}{review}")
    if answer.absent:
        print(f"not there ({answer.confidence:.2f})")
    elif not answer.found:
        print("nothing found, which does not mean that it is not there")
    if answer.advice:
        print(answer.advice)
    if len(sys.argv) > 4:
        answer.draw(image).save(sys.argv[4])
    return 0


if __name__ == "__main__":
    sys.exit(main())

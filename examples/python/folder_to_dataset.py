"""Boxes for every image of a folder, as a data set:

python folder_to_dataset.py URL FOLDER coco|yolo|labelstudio|cvat OUT PROMPT [PROMPT ...]

Prompts are the categories. Answers under --min-confidence, and those without any confidence because they were cut, are left out of the data set
and listed.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

from chord_client import Client, GroundRequest
from chord_client.export import FORMATS, Dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("out")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--min-confidence", type=float, default=0.0)
    args = parser.parse_args()

    files = sorted(
        path
        for path in args.folder.iterdir()
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    jobs = [(path, prompt) for path in files for prompt in args.prompts]

    def requests() -> Iterator[GroundRequest]:
        for path, prompt in jobs:
            yield GroundRequest(path, prompt, tag=path.name)

    failed = 0
    answers = [None] * len(jobs)
    with Client(args.url) as chord:
        for result in chord.ground_batch(requests()):
            if result.error is not None:
                failed += 1
                print(f"{result.tag}: {result.error}", file=sys.stderr)
            else:
                answers[result.index] = result.answer
    dataset = Dataset()
    for (path, prompt), answer in zip(jobs, answers, strict=True):
        if answer is None:
            continue
        if answer.confidence is None or answer.confidence < args.min_confidence:
            sure = "cut" if answer.confidence is None else f"{answer.confidence:.2f}"
            print(f"{path.name}: {prompt!r} is unsure ({sure})", file=sys.stderr)
            continue
        dataset.add(path.name, prompt, answer, category=prompt)
    dataset.save(args.format, args.out)
    print(f"{len(dataset.images)} images, {len(dataset.categories)} categories, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

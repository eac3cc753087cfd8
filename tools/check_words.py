#!/usr/bin/env python3
"""Refuses words that the glossary replaced, in sources, tests, scripts and documents.

docs/glossary.md has the terms. A line with a retired word is printed with the term to use; exit code 1 on any.
Data formats that users write ("questions" of a data set) and other names that are fixed from outside are in ALLOWED.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = {".h", ".cc", ".inc", ".cu", ".cuh", ".proto", ".py", ".sh", ".cmake", ".md", ".txt", ".js", ".css", ".html"}
SKIPPED = ("CHANGELOG.md", "LICENSE", "demo/", "models/", "tests/fuzz/corpus/", "tools/check_words.py", "docs/glossary.md")

# Retired word -> term.
RETIRED = {
    r"pictures?": "image",
    r"questions?": "prompt, request",
    r"mend(s|ed|ing)?": "fix",
    r"doors?": "endpoint, frontend",
    r"legs?": "worker call",
    r"askers?": "client",
    r"nobody|whoever|whosoever": "name the subject",
    r"gone": "removed, evicted, closed",
    r"said": "returned, predicted, given",
    r"so many( of)?": "the number of",
    r"housekeep(s|ing)?": "maintenance",
    r"guess(es|ed|ing)?": "draft tokens; estimate",
    r"fates?": "action",
}
WORD = re.compile(r"(?<![A-Za-z])(?:" + "|".join(f"(?P<w{i}>{w})" for i, w in enumerate(RETIRED)) + r")(?![A-Za-z])", re.IGNORECASE)
CAMEL = re.compile(r"Picture|Question|Mend(?=[A-Z]|\b)|RunLanes|Legs?(?=[A-Z]|\b)|Asker|Nobody|Whoever|Gone(?=[A-Z]|\b)|Housekeep")
TERMS = list(RETIRED.values())

# Pattern of a line that may hold a retired word: fixed from outside, or meant literally.
ALLOWED = re.compile(
    r"""["'`](questions?|sentences?|pictures)["'`]|\\"questions\\"|get\("questions?"\)"""  # data files, bench and eval JSON
    r"|MILLION_PICTURES|data-picture|<picture>"
)


def files():
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    for name in names:
        path = ROOT / name
        if path.suffix in SUFFIXES and not name.startswith(SKIPPED) and path.is_file():
            yield name, path


def main():
    findings = checked = 0
    for name, path in files():
        checked += 1
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            rest = ALLOWED.sub("", line)
            found = WORD.search(rest)
            term = TERMS[int(found.lastgroup[1:])] if found else "see docs/glossary.md"
            found = found or CAMEL.search(rest)
            if found:
                findings += 1
                print(f"{name}:{number}: \"{found.group(0)}\": {term}")
    print(f"retired words: {findings} in {checked} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

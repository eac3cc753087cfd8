#!/usr/bin/env python3
"""Checks that every section that a comment cites, as in "spec §4.2", is a section of docs/qwen2_5_vl.md.

Prints one line for each citation that resolves to nothing; the exit code is 1 on any.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPECIFICATION = ROOT / "docs/qwen2_5_vl.md"
SUFFIXES = {".h", ".cc", ".inc", ".cu", ".cuh", ".proto", ".py", ".sh", ".md", ".txt", ".cmake"}
SECTION = r"§(\d+(?:\.\d+)?)"
CITATION = re.compile(r"\bspec(?:ification)?,?\s+(?:(?:#|//)\s*)?((?:§\d+(?:\.\d+)?(?:,\s*|\s+and\s+)?)+)")
HEADING = re.compile(r"^#+\s+(\d+(?:\.\d+)?)\.?\s")


def sections():
    """The numbers of the headings: {"4", "4.2", ...}."""
    lines = SPECIFICATION.read_text(encoding="utf-8").splitlines()
    return {match.group(1) for line in lines if (match := HEADING.match(line))}


def files():
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    return [ROOT / name for name in names if pathlib.Path(name).suffix in SUFFIXES and (ROOT / name).is_file()]


def main():
    known = sections()
    citations = wrong = 0
    for path in files():
        # The text as a whole: a citation may be broken over two lines of a comment.
        text = path.read_text(encoding="utf-8", errors="replace")
        for citation in CITATION.finditer(text):
            for number in re.findall(SECTION, citation.group(1)):
                citations += 1
                if number not in known:
                    wrong += 1
                    line = text.count("\n", 0, citation.start()) + 1
                    print(f"{path.relative_to(ROOT)}:{line}: the specification has no section {number}")
    print(f"citations of the specification: {wrong} of {citations} resolve to nothing")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

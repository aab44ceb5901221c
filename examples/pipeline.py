"""A pipeline of programs and Python functions: which words of a text come most often.

The text is made by a program, cut into words and weighed by functions, sorted and counted by programs. No
shell is involved. `head` reads five lines and leaves, which ends the stages before it and is no failure; what
does fail is named.

    python examples/pipeline.py
"""

import re
import sys
from collections.abc import Iterable, Iterator

import isthmus


def words(lines: Iterable[str]) -> Iterator[str]:
    """Cut lines into words of four letters and more, one a line."""
    for line in lines:
        for word in re.findall(r"[a-z]{4,}", line.lower()):
            yield f"{word}\n"


def bars(lines: Iterable[str]) -> Iterator[str]:
    """Draw a bar for each count."""
    for line in lines:
        count, word = line.split()
        yield f"{word:10} {'#' * int(count)} {count}\n"


def main() -> int:
    """Rank the words of the Zen of Python."""
    text = [sys.executable, "-c", "import this"]
    ranking = isthmus.pipeline(
        text, words, "sort", "uniq -c", "sort -k1,1nr -k2", "head -n 5", bars, text=True, timeout=30
    )
    for line in ranking:
        print(line, end="")
    print(f"{len(ranking.exit_codes)} stages, exit code {ranking.exit_code}", flush=True)
    try:
        isthmus.pipeline(text, "grep python-the-snake", "sort").read()
    except isthmus.StageFailed as failure:
        print(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main())

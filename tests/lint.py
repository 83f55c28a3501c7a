#!/usr/bin/env python3
"""Checks what neither rustfmt nor clippy look at.

- A doc comment begins with a verb phrase ("Returns the durable offset.") or with a noun ("Bound on
  the bytes of a page."). One that begins with a question word says what its subject answers before
  it says what its subject is. Such comments must be less than 2 % of a crate's.
- A function of a crate under server/ has at most 80 lines, a handler of a route at most 40. Tests
  and the crate `testing` are exempt.
"""

import pathlib
import re
import sys

QUESTION_WORDS = set(
    "how what whatever when whenever where wherever whether which whichever who whoever whom whose why".split()
)
MAX_SHARE_OF_QUESTIONS = 0.02
MAX_LINES = 80
MAX_LINES_OF_A_HANDLER = 40
HANDLERS = "server/edge/src/routes"
ROUTER = "router"

DOC = re.compile(r"\s*//[/!](?!/) ?(.*)")
FUNCTION = re.compile(r"(\s*)(?:pub(?:\([a-z:]+\))? )?(?:(?:const|async|unsafe) )*fn (\w+)")
TEST_MODULE = re.compile(r"\s*#\[cfg\((?:test|all\(test\b.*|any\(test\b.*)\)\]\s*\n\s*(?:pub(?:\(\w+\))? )?mod (\w+)( \{|;)")

ROOT = pathlib.Path(__file__).resolve().parent.parent


def doc_comments(text):
    """Yields the line number and the first line of each doc comment."""
    before = False
    for number, line in enumerate(text.splitlines(), 1):
        found = DOC.match(line)
        if found and not before:
            yield number, found[1]
        before = bool(found)


def check_first_words(crate):
    found, wrong = 0, []
    for path in sorted(crate.rglob("*.rs")):
        for number, text in doc_comments(path.read_text(encoding="utf-8")):
            found += 1
            if re.match(r"\w*", text)[0].lower() in QUESTION_WORDS:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {text}")
    if len(wrong) < max(found * MAX_SHARE_OF_QUESTIONS, 1):
        return []
    return [
        *wrong,
        f"{crate.name}: {len(wrong)} of {found} doc comments begin with a question word; "
        'begin with a verb phrase ("Returns the durable offset.") or a noun.',
    ]


def functions(lines):
    """Yields the name, the line number and the length in lines of each function with a body."""
    for start, line in enumerate(lines):
        found = FUNCTION.match(line)
        if not found:
            continue
        indent, name = found.groups()
        head = next((i for i in range(start, len(lines)) if lines[i].rstrip().endswith(("{", ";", "}"))), start)
        if not lines[head].rstrip().endswith("{"):
            continue
        end = next((i for i in range(head, len(lines)) if lines[i].rstrip() == indent + "}"), head)
        yield name, start + 1, end - start + 1


def program_files(crate):
    """Yields the files of a crate's program, with their lines: without modules that are for tests."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(crate.glob("src/**/*.rs"))}
    tests = set()
    for path, text in texts.items():
        home = path.parent if path.stem in ("lib", "main", "mod") else path.with_suffix("")
        for found in TEST_MODULE.finditer(text):
            if found[2] == ";":
                tests |= {home / f"{found[1]}.rs", home / found[1]}
    for path, text in texts.items():
        if path in tests or tests & set(path.parents):
            continue
        inner = TEST_MODULE.search(text)
        while inner and inner[2] == ";":
            inner = TEST_MODULE.search(text, inner.end())
        yield path, text[: inner.start() if inner else None].splitlines()


def check_lengths(crate):
    wrong = []
    for path, lines in program_files(crate):
        name = str(path.relative_to(ROOT))
        for function, number, length in functions(lines):
            handler = name.startswith(HANDLERS) and function != ROUTER
            most = MAX_LINES_OF_A_HANDLER if handler else MAX_LINES
            if length > most:
                wrong.append(f"{name}:{number}: {function} has {length} lines, more than {most}; cut it into steps.")
    return wrong


def main():
    crates = [manifest.parent for manifest in sorted(ROOT.glob("server/*/Cargo.toml"))]
    wrong = [line for crate in [*crates, ROOT / "tests"] for line in check_first_words(crate)]
    wrong += [line for crate in crates if crate.name != "testing" for line in check_lengths(crate)]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

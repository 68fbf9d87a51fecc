"""Count code lines: no blank lines, comments or docstrings (those of attributes included).

python -m benchmarks.code_lines              # rooms and their sum
python -m benchmarks.code_lines --files      # every file, the longest first
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOMS = ("mdmt", "client", "server", "simulation")
_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


def code_lines(source: str) -> int:
    """Count the lines of a module that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            lines.difference_update(range(text.lineno, (text.end_lineno or 0) + 1))
    return len(lines)


def main() -> None:
    """Print the counts of the product's rooms, read from the current folder."""
    counts = {
        room: {path: code_lines(path.read_text("utf-8")) for path in Path(room).rglob("*.py")}
        for room in ROOMS
    }
    if "--files" in sys.argv[1:]:
        files = [(n, path) for found in counts.values() for path, n in found.items()]
        for number, path in sorted(files, key=lambda pair: (-pair[0], pair[1])):
            print(f"{number:6} {path}")  # noqa: T201
    for room, found in counts.items():
        print(f"{sum(found.values()):6} {room}: {len(found)} files")  # noqa: T201
    print(f"{sum(sum(found.values()) for found in counts.values()):6} all")  # noqa: T201


if __name__ == "__main__":
    main()

"""Lines of ours inside the enclave: what a reader must read to believe it.

Counted: every line of code in every module of ours that ``enclave_runtime`` loads, by its own
import statements, at the head or deeper. Blank lines, comments and docstrings are not counted.
``python -m benchmarks.tcb`` writes the table of docs/tcb.md.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("enclave_runtime", "trust")
GOAL: Final = 3000
ABSENT: Final = ("enclave_runtime/simulated.py",)  # absent from a real image


def modules() -> dict[str, Path]:
    """Modules of ours that the enclave can load, name -> file."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "enclave_runtime").rglob("*.py")
        if path.relative_to(ROOT).as_posix() not in ABSENT
    }
    queue = list(found.values())
    while queue:
        for name in _imported(queue.pop()):
            path = _file(name)
            if path is not None and name not in found:
                found[name] = path
                queue.append(path)
    return found


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def code_lines(path: Path) -> int:
    """Lines that hold a token of code."""
    text = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def figures(_runs: int) -> list[dict[str, Any]]:
    """`tcb.lines`."""
    total = sum(code_lines(path) for path in modules().values())
    return [
        {"figure": "tcb.lines", "value": total, "unit": "lines", "better": "lower", "goal": GOAL}
    ]


def write_table() -> None:
    """Put today's modules and lines into docs/tcb.md, below its words."""
    path = ROOT / "docs" / "tcb.md"
    words = path.read_text(encoding="utf-8").partition("| module | lines |")[0]
    rows = [(name, code_lines(file)) for name, file in sorted(modules().items())]
    rows.append(("sum", sum(lines for _, lines in rows)))
    body = "".join(f"| `{name}` | {lines} |\n" for name, lines in rows[:-1])
    total = f"| **sum** | **{rows[-1][1]}** |\n"
    path.write_text(f"{words}| module | lines |\n|---|---|\n{body}{total}", encoding="utf-8")


if __name__ == "__main__":
    write_table()

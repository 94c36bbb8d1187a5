"""A report for other programs: CSV for spreadsheets, Markdown for pages, Mermaid for pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specc.inspect.columns import COLUMNS, default_columns, parameters, title
from specc.inspect.formulas import Formula
from specc.inspect.numbers import rounded
from specc.inspect.reports import Report
from specc.inspect.tree import Block


def walk(block: Block, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int, Block]]:
    """Every row with its full path and how deep it is."""
    path = ".".join(part for part in (prefix, block.path) if part)
    yield path, depth, block
    for child in block.children:
        yield from walk(child, path, depth + 1)


def as_csv(report: Report) -> str:
    """A row a block, formulas as text; with sizes their numbers in columns of their own."""
    head: list[str | int] = ["path", "block", "method", "count", "parts", "use", "results", "parameters"]
    formulas = ("flops", "products", "training_flops", "moved_bytes", "saved_bytes")
    head += [*formulas, *(f"{name}_at" for name in formulas), "peak_bytes_at"]
    rows: list[Sequence[object]] = [head]
    for block, used in ((report.root, ""), *((b, "unused") for b in report.unused)):
        for path, _, row in walk(block):
            results = "; ".join(str(type_) for _, type_ in row.results)
            first = [path, row.name, row.method, row.count, row.parts, used or row.use, results, row.parameters]
            rows.append([*first, *_numbers(report, row)])
    return "".join(",".join(_quoted(str(cell)) for cell in row) + "\n" for row in rows)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n') else cell


def _numbers(report: Report, row: Block) -> list[str | int]:
    if row.spent is None:
        return [""] * 11
    spent = row.spent
    formulas: Sequence[Formula] = (spent.flops, spent.products, spent.training, spent.moved, spent.saved)
    at = ["" if (number := report.number(f)) is None else number for f in formulas]
    peak = report.largest(spent.peak)
    return [*("" if f is None else str(f) for f in formulas), *at, "" if peak is None else peak]


def as_markdown(report: Report, columns: Sequence[str] = ()) -> str:
    """A table in which spaces that do not break show the depth."""
    chosen = columns or default_columns(report)
    lines = ["| " + " | ".join(["block", *(COLUMNS[name].heading for name in chosen)]) + " |"]
    lines.append("|" + "|".join(["---", *("---" if COLUMNS[name].left else "---:" for name in chosen)]) + "|")
    for block in (report.root, *report.unused):
        for _, depth, row in walk(block):
            path = f"`{row.path}` " if row.path else ""
            cells = [COLUMNS[name].cell(report, row) for name in chosen]
            shown = ["&nbsp;" * 4 * depth + path + title(row), *(_escaped(cell) for cell in cells)]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def as_mermaid(report: Report) -> str:
    """A flow chart of the tree, blocks side by side in the order in which they run."""
    lines, numbers = ["flowchart TD"], list[str]()

    def node(block: Block, above: str | None) -> None:
        name = f"b{len(numbers)}"
        numbers.append(name)
        label = [title(block), f"{parameters(report, block)} parameters"]
        if block.path:
            label.insert(0, block.path)
        number = report.number(block.flops)
        if number is not None:
            label.append(f"{rounded(number)}FLOPs" if rounded(number)[-1].isalpha() else f"{rounded(number)} FLOPs")
        lines.append(f'  {name}["{"<br/>".join(label)}"]')
        if above is not None:
            lines.append(f"  {above} --> {name}")
        for child in block.children:
            node(child, name)

    node(report.root, None)
    return "\n".join(lines).replace("{", "#123;").replace("}", "#125;") + "\n"

"""Fields of text as rows of ids: `tokens("column")`, or `text = "column"` for a tokenizer's own inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from specc.syntax import ast
from specc_runtime.training.data.asked import TOKENS, Asked, arguments
from specc_runtime.training.data.columns import Array, Column, Data, Mask, Ragged, bad
from specc_runtime.training.data.fields import Table, gathered
from specc_runtime.training.data.limits import most_ids
from specc_runtime.training.data.vocabulary import HELP, Vocabulary, vocabulary
from specc_runtime.training.section import failed

AT_ONCE = 1024
"""Texts that are tokenised together."""


def table_data(asked: Asked, table: Table, options: tuple[str, ...] = ()) -> Data:
    """The fields of a table, those of text as ids."""
    fields = {**asked.fields((*TOKENS, *options)), **table.given()}
    texts: dict[str, tuple[ast.Str, ...]] = {}
    rest: dict[str, ast.Expr] = {}
    for key, expr in fields.items():
        columns = _columns(asked, key, expr)
        name = key if isinstance(expr, ast.Call) else "input_ids"  # of `text = "s"`
        if columns is None:
            rest[key] = expr
        elif name in texts:
            raise failed("E121", "`input_ids` is given twice: `text` has these ids, too", expr.span)
        else:
            texts[name] = columns
    if not fields:
        raise failed("E124", "the data source has no fields", asked.span, 'x = ["column"]')
    if not len(table):
        raise bad(f"{table.name} has no rows", asked.span)
    _unused(asked, bool(texts))
    data = gathered(asked, table, rest)
    if not texts:
        return data
    found = Tokenized(asked, table, texts)
    return replace(
        data,
        fields={**found.fields(), **data.fields},
        columns={**found.used(), **data.columns},
        tokenizer=found.vocabulary.json if found.vocabulary is not None else None,
        vocabulary=found.vocabulary.size if found.vocabulary is not None else 0,
        ids=tuple(found.used()) if found.vocabulary is not None else (),
        padded=found.padded,
    )


def _columns(asked: Asked, key: str, expr: ast.Expr) -> tuple[ast.Str, ...] | None:
    """The columns of a field of text, of a pair two; None if the field is none."""
    if key == "text" and _has_tokenizer(asked):
        items = expr.elements if isinstance(expr, ast.ListExpr) else (expr,)
        if not 1 <= len(items) <= 2 or not all(isinstance(e, ast.Str) for e in items):
            raise failed("E125", "`text` is a column of texts, or a pair of them", expr.span, 'text = ["a", "b"]')
        return tuple(e for e in items if isinstance(e, ast.Str))
    if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "tokens":
        column, _ = arguments(asked.section, expr, ())
        if not isinstance(column, ast.Str):
            raise failed("E125", "`tokens` takes the name of a column", expr.span, 'tokens("sentence")')
        return (column,)
    return None


def _has_tokenizer(asked: Asked) -> bool:
    """Whether it says one, or is to validate on data with one."""
    return "tokenizer" in asked.named() or (asked.like is not None and asked.like.tokenizer is not None)


def _unused(asked: Asked, texts: bool) -> None:
    """Options of text where no field is one."""
    given = next((name for name in TOKENS if name in asked.named()), None)
    if given is not None and not texts:
        help = 'input_ids = tokens("column"), or text = "column"'
        raise failed("E124", f"`{given}` is given, but no field is text", asked.named()[given].span, help)


class Tokenized:
    """The fields of text of a table, with one tokenizer for all of them."""

    def __init__(self, asked: Asked, table: Table, of: Mapping[str, tuple[ast.Str, ...]]) -> None:
        self.asked, self.table, self.of = asked, table, of
        self.most = asked.option("length", None, int, "the most ids of a row, at least 1")
        self.truncate = asked.option("truncate", False, bool, "true or false: whether longer rows are cut")
        self.vocabulary: Vocabulary | None = None
        self.padded: dict[str, int] = {}
        if any(self._given_ids(columns) is None for columns in of.values()):
            if not _has_tokenizer(asked):
                raise failed("E124", "a source with fields of text needs a `tokenizer`", asked.span, HELP)
            self.vocabulary = vocabulary(asked, self._all(), rows=True)

    def used(self) -> dict[str, str]:
        return {key: columns[0].value for key, columns in self.of.items()}

    def _given_ids(self, columns: tuple[ast.Str, ...]) -> tuple[Array, Array] | None:
        return self.table.ids(columns[0].value, columns[0].span) if len(columns) == 1 else None

    def _texts(self, columns: tuple[ast.Str, ...]) -> list[Sequence[str]]:
        return [self.table.texts(c.value, c.span) for c in columns]

    def _all(self) -> Iterator[str]:
        """Every text: what a tokenizer is trained on."""
        columns = [text for columns in self.of.values() for text in self._texts(columns)]
        return chain.from_iterable(_parts(column) for column in columns)

    def fields(self) -> dict[str, Column]:
        found: dict[str, Column] = {}
        for key, columns in self.of.items():
            prefix = key.removesuffix("input_ids") if key.endswith("input_ids") else f"{key}_"
            ids, kinds = self._encoded(key, columns)
            found[key] = ids
            found[f"{prefix}attention_mask"] = Mask(ids)
            found[f"{prefix}token_type_ids"] = kinds
        return found

    def _encoded(self, key: str, columns: tuple[ast.Str, ...]) -> tuple[Ragged, Column]:
        """Ids, and which of a pair they belong to."""
        given = self._given_ids(columns)
        kinds: Array | None = None
        if given is not None:
            flat, sizes = given
        else:
            flat, sizes, kinds = self._encode(columns, self._limit(key)[0])
        limit, whose = self._limit(key)
        if not sizes.all():
            raise bad(f"{self.table.place(int(np.argmin(sizes)))}: `{key}` has no ids", columns[0].span)
        if limit is not None and not self.truncate and (sizes > limit).any():
            row = int(np.argmax(sizes > limit))
            message = f"{self.table.place(row)}: `{key}` has {sizes[row]} ids, {whose} {limit}"
            raise bad(message, columns[0].span, "truncate = true  cuts rows that are longer")
        pad = self._pad()
        if pad is None and (sizes != sizes[0]).any():
            message = f"the rows of `{key}` have different lengths, and the tokenizer has no token to fill them up"
            raise bad(message, columns[0].span, 'pad = "<|endoftext|>",  or an id')
        ids = Ragged.of(flat, sizes, pad or 0)
        types = replace(ids, ids=np.broadcast_to(np.zeros(1, np.uint8), flat.shape) if kinds is None else kinds, pad=0)
        if limit is not None:
            ids, types = ids.cut(limit), types.cut(limit)
        if not ids.same:
            self.padded[key] = ids.pad
        return ids, types

    def _pad(self) -> int | None:
        if self.vocabulary is not None:
            return self.vocabulary.pad
        found: int = self.asked.option("pad", 0, int, "the id that fills up rows")
        return found

    def _limit(self, field: str) -> tuple[int | None, str]:
        """The most ids of a row, and who says so: `length`, or else the model."""
        most = most_ids(self.asked.section, field)
        if self.most is not None and (most is None or self.most <= most):
            return self.most, "`length` is"
        return most, "the model takes at most"

    def _encode(self, columns: tuple[ast.Str, ...], limit: int | None) -> tuple[Array, Array, Array | None]:
        """Ids of all rows, how many each has, and for pairs the kinds of all ids."""
        assert self.vocabulary is not None
        tokenizer, pair = self.vocabulary.tokenizer, len(columns) == 2
        if self.truncate and limit is not None:
            self._truncating(columns, limit)
        small = np.uint16 if self.vocabulary.size <= 2**16 else np.uint32
        ids, kinds, sizes = [np.zeros(0, small)], [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
        sources = self._texts(columns)
        for start in range(0, len(self.table), AT_ONCE):
            texts: list[Any] = [column[start : start + AT_ONCE] for column in sources]
            found = tokenizer.encode_batch_fast(list(zip(*texts, strict=True)) if pair else list(texts[0]))
            ids.append(np.array([i for one in found for i in one.ids], small))
            sizes.append(np.array([len(one.ids) for one in found]))
            if pair:
                kinds.append(np.array([i for one in found for i in one.type_ids], np.uint8))
        tokenizer.no_truncation()
        return np.concatenate(ids), np.concatenate(sizes), np.concatenate(kinds) if pair else None

    def _truncating(self, columns: tuple[ast.Str, ...], limit: int) -> None:
        """The tokenizer cuts texts itself: the tokens that end one stay."""
        assert self.vocabulary is not None
        tokenizer = self.vocabulary.tokenizer
        ends = tokenizer.num_special_tokens_to_add(len(columns) == 2)
        if ends >= limit:
            message = f"rows of {limit} ids have no room for text: the tokenizer itself adds {ends}"
            raise failed("E125", message, self.asked.span)
        tokenizer.enable_truncation(limit)


def _parts(column: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(column), AT_ONCE):
        yield from column[start : start + AT_ONCE]

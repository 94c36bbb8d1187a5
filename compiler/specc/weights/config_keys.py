"""Keys of a config.json that a `config { }` section does not speak of: harmless ones, and all others (W333).

A key that is not read may say how the model computes, so it is never passed over: the section reads it, requires
something of it, or ignores it. The keys below change no output of any model and need not be named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from specc.diagnostics import Diagnostic
from specc.elaborate.names import closest
from specc.elaborate.values import Fail
from specc.syntax import ast
from specc.weights.config_lets import Item
from specc.weights.config_values import ConfigEvaluator, dotted
from specc.weights.rules import section_path

_HARMLESS = {
    "the record of the file": """
        _commit_hash _name_or_path name_or_path architectures auto_map model_type transformers_version""",
    "how numbers are stored and operators are run": """
        _attn_implementation _attn_implementation_internal attn_implementation chunk_size_feed_forward dtype
        gradient_checkpointing tf_legacy_loss torch_dtype torchscript use_bfloat16""",
    "what else a call returns, and whether it keeps a cache": """
        cache_implementation is_encoder_decoder output_attentions output_hidden_states output_past output_scores
        return_dict return_dict_in_generate use_cache""",
    "values before training": "init_std initializer_factor initializer_range",
    "text around the model": """
        finetuning_task id2label label2id num_labels prefix problem_type task_specific_params tokenizer_class""",
    "tokens that text is made of; a model that computes with one reads it": """
        bos_token_id cls_token_id decoder_start_token_id eos_token_id mask_token_id pad_token_id sep_token_id
        unk_token_id""",
    "generation of text": """
        bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
        exponential_decay_length_penalty force_bos_token_to_be_generated forced_bos_token_id forced_decoder_ids
        forced_eos_token_id length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups
        num_beams num_return_sequences penalty_alpha remove_invalid_values repetition_penalty suppress_tokens
        temperature top_k top_p typical_p""",
}
HARMLESS: Mapping[str, str] = {key: why for why, keys in _HARMLESS.items() for key in keys.split()}
"""Last part of a key -> what it is about, for keys that change no output."""

USUAL: Mapping[str, Any] = {"add_cross_attention": False, "is_decoder": False, "tie_encoder_decoder": False}
"""Keys that every family has, and the value that changes nothing."""


def keys_in(expr: Any, presence: bool = True) -> Iterator[str]:
    """Every key that an expression may read, nested ones as `a.b`; names of functions and variables are left out.

    `presence`: also those of which it is only asked whether they are there, by `has(key)` or `key == none`.
    """
    if not presence and _asks_presence(expr):
        return
    if isinstance(expr, (ast.Name, ast.Attr)) and (keys := dotted(expr)):
        yield ".".join(keys)
    elif isinstance(expr, ast.Call):
        yield from keys_in(expr.args, presence)
    elif isinstance(expr, ast.Comprehension):
        own = {name.id for name in expr.names}
        yield from (key for key in keys_in((expr.element, expr.iterable), presence) if key.partition(".")[0] not in own)
    elif isinstance(expr, ast.Node):
        for field, child in vars(expr).items():
            if field != "span":
                yield from keys_in(child, presence)
    elif isinstance(expr, tuple):
        for child in expr:
            yield from keys_in(child, presence)


def _asks_presence(expr: Any) -> bool:
    if isinstance(expr, ast.Call):
        return isinstance(expr.func, ast.Name) and expr.func.id == "has"
    return isinstance(expr, ast.Compare) and isinstance(expr.rest[-1], ast.NoneLit)


def named_keys(items: Iterable[Item]) -> dict[str, None]:
    """The keys that a config section reads, requires something of, or ignores, in order."""
    found: dict[str, None] = {}
    for item in items:
        if isinstance(item, ast.Require):
            found |= dict.fromkeys(keys_in(item.cond, presence=_asks_presence(item.cond)))
        else:
            found |= dict.fromkeys(keys_in(item.value if isinstance(item, ast.Setting) else item.keys, presence=False))
    return found


def unread(config: Mapping[str, Any], named: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a config that may matter and is not named, with its value. Null and `{}` say nothing.

    Objects are entered where a part of one is named; naming an object names all in it.
    """
    for name, value in config.items():
        key = prefix + name
        if value is None or value == {} or name in HARMLESS or key in named:
            continue
        if name in USUAL and value is USUAL[name]:
            continue
        if isinstance(value, Mapping) and any(other.startswith(f"{key}.") for other in named):
            yield from unread(value, named, f"{key}.")
        else:
            yield key, value


def check_keys(node: ast.Weights, items: Iterable[Item], config: Mapping[str, Any], path: str) -> Iterator[Diagnostic]:
    """W333 for every key of the file `path` that a section does not speak of; none if it reads no config at all."""
    sections = [rule for rule in node.rules if isinstance(rule, ast.WConfig)]
    if not sections:
        return
    named = named_keys(items)
    absent = [key for key in named if not _has(config, key)]
    for key, value in unread(config, named):
        guess = closest(key, absent)
        help = f"`ignore {key}` if it changes no output; else `PARAMETER = {key}`, or `require {key} == ..`"
        yield Diagnostic(
            "W333",
            f"nothing reads `{key} = {_shown(value)}` of {path}",
            sections[0].span.head(),
            "no setting, `require` or `ignore` here names it",
            path=section_path(node, path),
            help=f"did you mean `{key}` where the section says `{guess}`?" if guess else help,
        )


def check_requirement(reader: ConfigEvaluator, cond: ast.Expr, message: str | None) -> Iterator[Diagnostic]:
    """W334 if the condition does not hold. What reads no key that has a value does: the family's defaults count.

    `a and b` is two requirements. `reader` is used up.
    """
    if isinstance(cond, ast.Paren):
        yield from check_requirement(reader, cond.inner, message)
        return
    if isinstance(cond, ast.Binary) and cond.op == "and":
        yield from check_requirement(replace(reader, used={}), cond.left, message)
        yield from check_requirement(replace(reader, used={}), cond.right, message)
        return
    try:
        holds = reader.condition(cond)
    except Fail as fail:
        yield fail.diagnostic
        return
    read = keys_in(cond) if _asks_presence(cond) else reader.used
    found = {key: reader.look_up(key.split(".")) for key in read}
    said = ", ".join(f"`{key} = {_shown(value)}`" for key, value in found.items() if value is not None)
    if said and not holds:
        said += "".join(f", and has no {keys}" for keys in _missing(reader, cond))
        yield Diagnostic(
            "W334",
            f"{reader.path} says {said}" + (f": {message}" if message else ""),
            cond.span,
            f"{reader.node.model.id} is described for this only",
            path=section_path(reader.node, reader.path),
        )


def _missing(reader: ConfigEvaluator, cond: ast.Expr) -> Iterator[str]:
    """The keys of each side of a comparison that is none for want of them: what the other side says is no fault."""
    for side in (cond.first, *cond.rest) if isinstance(cond, ast.Compare) else ():
        keys = list(dict.fromkeys(keys_in(side, presence=False)))
        if keys and reader.value(side) is None:
            yield " or ".join(f"`{key}`" for key in keys)


def _has(config: Mapping[str, Any], key: str) -> bool:
    at: Any = config
    for name in key.split("."):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True


def _shown(value: Any) -> str:
    """A JSON value, cut to a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]} ..."

"""Every code a message can have: its severity and what it is about. A code never changes meaning and is never reused.

`explain` gives the cause, a failing example and its fix, from `explanations.md`, which has one section for each code.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from specc.diagnostics import Severity

EXPLANATIONS = Path(__file__).with_name("explanations.md")

CODES: dict[str, str] = {
    # P: syntax
    "P000": "unexpected token",
    "P001": "there is no `def`",
    "P002": "there is no `class`",
    "P003": "there is no `self`",
    "P004": "methods have no `self` parameter",
    "P005": "true, false and none are lower case",
    "P006": "a Python statement or keyword that specc does not have",
    "P007": "no `*args` and `**kwargs`",
    "P008": "`is none` is written `== none`",
    "P009": "blocks are in braces, not `:` and indentation",
    "P010": "strings are in double quotes",
    "P011": "imports name what they take",
    "P012": "a string is not closed on its line",
    "P013": "floats have digits on both sides of the point",
    "P014": "a line cannot start with an operator",
    "P015": "there are no f-strings or other string prefixes",
    "P016": "ranges are written range(a, b)",
    "P020": "a bracket is not closed, or by another kind",
    "P021": "a closing bracket without an opening one",
    "P022": "a comma is missing",
    "P090": "a file is too large",
    "P091": "a line is too long",
    "P092": "brackets or expressions are nested too deep",
    "P093": "an invisible character",
    "P094": "a character outside ASCII in code",
    # E: names, arguments, elaboration
    "E002": "too many imported files, or imports nested too deep",
    "E003": "an import outside the project",
    "E004": "the imported file does not have that name",
    "E005": "imports form a cycle",
    "E006": "a file cannot be read",
    "E007": "no model to build, or several",
    "E008": "unknown preset",
    "E009": "a setting on the command line does not fit",
    "E010": "unknown model",
    "E100": "not allowed here",
    "E101": "`*` does not repeat a list",
    "E103": "unknown name",
    "E104": "declared twice",
    "E105": "index out of range",
    "E106": "a condition is not true or false",
    "E107": "no such member",
    "E108": "a group is not callable",
    "E109": "not callable",
    "E110": "inexact division, or division by zero",
    "E111": "a requirement failed",
    "E112": "a parameter size is not an int of at least 1",
    "E120": "unknown argument",
    "E121": "an argument is given twice, or positional after keyword",
    "E122": "too many arguments",
    "E123": "an argument is already bound",
    "E124": "a missing argument",
    "E125": "a value outside its type",
    "E130": "partial application takes keyword arguments only",
    "E131": "a part is created in a body",
    "E132": "comprehensions have no filter",
    "E140": "a parameter has no initialiser",
    "E150": "recursion",
    "E151": "a step re-binds a name from outside",
    "E160": "a model has no `forward`",
    "E190": "a list or range is too long",
    "E191": "a number is out of range",
    "E192": "too many evaluation steps",
    "E193": "too many parts and parameters",
    "E194": "too many parameter elements",
    "E195": "too many statements after unrolling",
    "E196": "too many optional inputs",
    "E250": "`tie` names no parameter",
    "E251": "an `init` rule matches nothing",
    # S: sizes and types
    "S103": "unknown dimension",
    "S104": "a dimension is not bound by the signature",
    "S120": "a condition is a tensor",
    "S140": "a part that does not exist in this configuration",
    "S141": "an optional argument where a value is needed",
    "S150": "wrong number of results",
    "S151": "wrong number of names",
    "S200": "sizes do not combine",
    "S201": "an argument or result has another size than declared",
    "S202": "wrong rank",
    "S203": "an update changes the shape",
    "S204": "too many axes",
    "S210": "an axis pattern does not match its input",
    "S211": "the two sides of an axis pattern have different factors",
    "S220": "two sizes are not always equal",
    "S221": "two sizes cannot be proved equal",
    "S222": "a size may be negative",
    "S223": "a promised fact does not hold at a call",
    "S230": "`over` or `along` is ambiguous or missing",
    "S240": "query heads are not a multiple of key heads",
    "S241": "a mask or bias has the wrong size",
    "S250": "tied parameters have different shapes",
    "S290": "equal in this configuration only",
    "S301": "element types do not mix",
    "S302": "a float number with an Int tensor",
    # D: incremental entries
    "D401": "a position restarts in every decoding step",
    "D402": "an operation mixes positions of different steps",
    "D403": "the length of a step is used as a number",
    "D404": "attention over cached keys is not causal",
    "D405": "the causality of a mask is not proved",
    "D406": "a static cache is used outside sdpa",
    "D407": "`cached` along a computed size",
    "D408": "an argument of `once` depends on the step",
    # W: weights and configs
    "W301": "a tensor in the file has another shape",
    "W305": "a square matrix whose orientation is unproved",
    "W310": "a file tensor has no use",
    "W311": "a model tensor has no source",
    "W312": "a tensor is mapped twice",
    "W313": "a rule can match no tensor",
    "W320": "a rename makes a checkpoint unreadable",
    "W321": "a `moved` line leads nowhere",
    "W322": "the old path of a `moved` line still exists",
    "W330": "unknown activation name",
    "W331": "the config gives no value",
    "W332": "a written config does not read back",
    "W333": "nothing reads a key of the config",
    "W334": "the config asks for what the section does not describe",
    "W335": "a written config leaves a value to the family's default",
    "W340": "a bad pattern",
    "W341": "an operation cannot be inverted",
    "W350": "no section for this checkpoint",
    "W351": "a pickle is refused",
    "W352": "a weights file is damaged",
    "W353": "a weight is out of the range of the build's dtype",
    # T: train and test sections
    "T501": "unknown setting",
    "T502": "both or neither of epochs and steps",
    "T503": "the loss is not a scalar",
    "T504": "an input without a data field",
    "T505": "a pattern matches nothing",
    "T506": "`freeze` names what `lora` adapts",
    "T510": "an `aux` value is not used",
    "T520": "an expectation failed",
    "T530": "no such train section",
    "T531": "training data is not as it should be",
    "T532": "the loss is not finite",
    "T533": "a run cannot be continued",
    "T534": "a run was ended",
    # B: build and backends
    "B601": "an operation is not available in this opset",
    "B610": "an extern operation has no ONNX lowering",
    "B620": "an entry has no cache",
    "B621": "onnxruntime-genai cannot run this model",
    "B622": "positions cannot be an input",
    "B623": "what is computed once cannot be appended to an entry",
    "B630": "torch and ONNX outputs differ",
    "B631": "a spec and another program differ",
    "B640": "the build cannot be written",
    "B641": "a proof takes more memory than there is",
    "B650": "not supported yet",
    "B660": "the output folder or a build cannot be used",
    "B670": "weights cannot be stored in few bits like this",
    # G: generating text
    "G701": "a prompt is longer than the context",
    "G702": "no tokenizer",
    "G703": "a token that the model does not have",
    "G704": "a prompt that cannot be continued",
    "G705": "a model that does not continue texts",
    "G706": "a device that is not there",
    "G707": "a setting of the generation is out of range",
    # X: trust
    "X901": "an extern file is not trusted",
    "X902": "an extern file changed since it was trusted",
    "X903": "an extern disagrees with its signature",
    "X904": "the Python of an extern fails",
    "X905": "the lock file is damaged",
    # N: names and style
    "N201": "a hyper-parameter and a dimension share a name",
    "N202": "a name that Python or torch reserves",
    "N203": "a part hides a function",
    "N204": "naming style",
    "N205": "an unused name",
}
"""Code -> what it is about, in one line."""

_SEVERITIES: dict[str, Severity] = {
    "D405": "warning",
    "E251": "warning",
    "W305": "warning",
    "W335": "warning",
    "T510": "warning",
    "N203": "note",
    "N204": "note",
    "N205": "note",
}


def severity(code: str) -> Severity:
    """How serious a finding with this code is, unless it says otherwise itself."""
    return _SEVERITIES.get(code, "error")


def title(code: str) -> str:
    """What a code is about, in one line; empty for an unknown code."""
    return CODES.get(code, "")


def explain(code: str) -> str | None:
    """Cause, a failing example and its fix, as Markdown; None for an unknown code. Upper and lower case both do."""
    return _sections().get(code.upper())


@cache
def _sections() -> dict[str, str]:
    text = EXPLANATIONS.read_text(encoding="utf-8")
    parts = re.split(r"^## ([A-Z]\d{3}) ", text, flags=re.MULTILINE)
    return {code: f"# {code}: {body.strip()}\n" for code, body in zip(parts[1::2], parts[2::2], strict=True)}

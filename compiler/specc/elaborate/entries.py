"""From a file to one checked model: its entries, each for every choice of optional inputs (LANGUAGE 12, 14)."""

from __future__ import annotations

from itertools import combinations

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.instances import Instance
from specc.elaborate.models import Options, bind_model, choose_model
from specc.elaborate.names import available, fold
from specc.elaborate.positions import with_position_ids
from specc.elaborate.signatures import is_list, is_tensor, opaque_axes
from specc.elaborate.values import Fail, Poisoned
from specc.ir.graph import Entry, Graph, Model
from specc.ir.initial import missing_initializers, unused_patterns
from specc.ir.members import parameters

MAX_OPTIONAL = 6


def elaborate(elab: Elaborator, file: FileScope, options: Options) -> Model:
    """The checked model; raises `Rejected` with every finding if there is an error."""
    with elab.collecting():
        return _elaborate(elab, file, options)
    raise Rejected(elab.collector.found)  # poisoned: what broke it was reported, here or by an import


def _elaborate(elab: Elaborator, file: FileScope, options: Options) -> Model:
    decl = choose_model(file, options)
    if not decl.node.is_model:
        raise Fail(Diagnostic("E007", f"{decl.name} is a block, not a model", decl.node.name.span))
    elab.context = f'preset "{options.preset}"' if options.preset else ""
    if options.position_ids:
        decl, elab.context = with_position_ids(decl), f"{elab.context} --position-ids".strip()
    with elab.inside(decl.name):
        bindings = bind_model(elab, decl, options)
        instance = elab.blocks.instance(decl, bindings, decl.node.name.span, None)
        if not elab.collector.errors:
            elab.blocks.check_counts(instance)
        elab.bodies.root = instance
        whole = not elab.collector.errors
        entries = _entries(elab, instance)
        if whole:
            check_initializers(elab, instance)
    if "forward" not in instance.methods:
        help = "forward(x: Tensor[B, dim]) -> Tensor[B, dim] { return x }"
        raise Fail(Diagnostic("E160", f"model {decl.name} has no `forward`", decl.node.name.span, help=help))
    elab.collector.stop_on_errors()
    stem = decl.file.source.name.rsplit("/", 1)[-1].removesuffix(".spec")
    # Two models, or two presets, of one file never get the same name: builds would overwrite each other.
    name = options.name or options.preset or (stem if len(decl.file.models()) == 1 else f"{stem}-{decl.name}")
    return Model(name, file.source.name, options.preset, instance.module, entries, instance.facts)


def _entries(elab: Elaborator, instance: Instance) -> dict[str, Entry]:
    """`forward` and the public `fn`s, each checked for every combination of its optional inputs."""
    entries: dict[str, Entry] = {}
    for name, method in instance.methods.items():
        if name.startswith("_"):
            continue
        optional = [p.name.id for p in method.params if p.type.optional]
        if len(optional) > MAX_OPTIONAL:
            raise Evaluator(elab, instance.scope).fail(
                "E196", f"{name} has {len(optional)} optional inputs (limit {MAX_OPTIONAL})", method.name.span
            )
        bad = next((p for p in method.params if not is_tensor(p.type)), None)
        if bad is not None:
            raise Evaluator(elab, instance.scope).fail(
                "E125", f"an entry's inputs are tensors, `{bad.name.id}` is not", bad.span
            )
        lists = next(
            (t for t in (*(p.type for p in method.params), *(r.type for r in method.results)) if is_list(t)), None
        )
        if lists is not None:
            raise Evaluator(elab, instance.scope).fail(
                "E125",
                "an entry takes and gives tensors, this is a list",
                lists.span,
                help=f"fn _{name}(..): not an entry" if name != "forward" else "name each tensor",
            )
        graphs: dict[frozenset[str], Graph] = {}
        for size in range(len(optional), -1, -1):
            for chosen in combinations(optional, size):
                try:
                    graphs[frozenset(chosen)] = elab.bodies.method(instance, method, frozenset(chosen), opaque_axes(2))
                except Fail as fail:
                    elab.collector.add(fail.diagnostic)
                except Poisoned:
                    pass
        if graphs:
            entries[name] = Entry(name, graphs)
    return entries


def check_initializers(elab: Elaborator, instance: Instance) -> None:
    """Parameters that nothing initialises (E140), and `init` rules that match nothing (E251)."""
    for path, parameter in missing_initializers(instance.module):
        text = parameter.span.head().text.strip()
        elab.collector.add(
            Diagnostic(
                "E140",
                f"`{path}` has no initialiser",
                parameter.span.head(),
                path=elab.where(),
                help=f"{text} = zeros()",
                note="a rule in an `init` section gives one too",
            )
        )
    # A rule for `Linear.bias` is right although this configuration has no bias; see `_block_rule`.
    for rule in unused_patterns(instance.module):
        known = available(fold(parameters(instance.module)))
        elab.collector.add(
            Diagnostic(
                "E251",
                f'this init rule matches no parameter: "{rule.pattern}"',
                rule.span,
                path=elab.where(),
                notes=(("available", known or "none"),),
                severity="warning",
            )
        )

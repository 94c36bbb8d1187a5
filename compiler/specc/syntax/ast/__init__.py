"""The syntax tree: one class per construct of `grammar.lark`. Every node knows its span; nothing is evaluated here."""

from specc.syntax.ast.blocks import *  # noqa: F403
from specc.syntax.ast.expressions import *  # noqa: F403
from specc.syntax.ast.files import *  # noqa: F403
from specc.syntax.ast.node import Node as Node
from specc.syntax.ast.statements import *  # noqa: F403

"""Sessions of commands, each with a message that no spec alone can give; the keys are the codes."""

from __future__ import annotations

from dataclasses import dataclass, field

NET = """\
dim B
model Net(dim: int = 4) {
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = relu(x)
}
"""

SCALED = """\
dim B
model Scaled(dim: int = 4) {
  param w: Tensor[dim] = ones()
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = x*w
}
"""

DECODER = """\
dim B, T
model LM(dim: int = 8) {
  forward(x: Tensor[B, 2, T, dim]) -> y: Tensor[B, 2, T, dim] {
    k = cached(x, along = T)
    return sdpa(x, k, k, causal = true)
  }
}
"""

WRITER = """\
from std.nn import Embedding, Linear
dim B, T, S = past(T) + T
model LM(vocab: int = 20, dim: int = 8, context: int = 16) {
  dim S <= context
  wte: Embedding(vocab, dim)
  head: Linear(dim, vocab)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    x = wte(input_ids)[:, none]
    k = cached(x, along = T)
    return head(sdpa(x, k, k, causal = true)[:, 0])
  }
}
"""

TOKENS = """\
from std.nn import Embedding
dim B, T, S = past(T) + T
model LM(vocab: int = 16) {
  dim S <= 32
  embed: Embedding(vocab, 8)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    x = embed(input_ids)[:, none]
    k, v = cached(x, 2*x, along = T)
    y = sdpa(x, k, v, causal = true)
    return y[:, 0] @ transpose(embed.weight, 0, 1)
  }
}
"""

PLACES = """\
from std.nn import Embedding
dim B, T
block Own(dim: int) {
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, dim] = x + sinusoidal(positions(T), dim)
}
model Net(vocab: int = 16, dim: int = 4, context: int = 8) {
  dim T <= context
  wte: Embedding(vocab, dim)
  wpe: Embedding(context, dim)
  own: Own(dim)
  forward(input_ids: Int[B, T]) -> y: Tensor[B, T, dim] {
    return wte(input_ids) + wpe(positions(T))
  }
}
"""

BOTH = """\
dim B, T, N
model Net(dim: int = 8) {
  fn encode(source: Tensor[B, 2, N, dim]) -> memory: Tensor[B, 2, N, dim] = tanh(source)
  fn decode(x: Tensor[B, 2, T, dim], memory: Tensor[B, 2, N, dim]) -> y: Tensor[B, 2, T, dim] {
    k = cached(x, along = T)
    y = sdpa(x, k, k, causal = true)
    k, v = once(memory, 2*memory)
    return y + sdpa(x, k, v)
  }
  forward(x: Tensor[B, 2, T, dim]) -> y: Tensor[B, 2, T, dim] = tanh(x)
}
"""

WIDE = """\
dim B
model Net {
  param w: Tensor[4] = constant(100_000.0)
  forward(x: Tensor[B, 4]) -> y: Tensor[B, 4] = x * w
}
"""

CONFIG = """\
from std.nn import Linear
dim B
model Net(dim: int = 4, bias: bool = true) {
  fc: Linear(dim, dim, bias)
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = fc(x)
}
weights Net from "hf:net" { config { dim = hidden_size } }
"""

TRAINED = """\
from std.nn import Linear
dim B
model Net {
  fc: Linear(2, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] = fc(x)
}
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  loss  = cross_entropy(logits, data.label)
  optim = sgd(lr = 0.1)
  batch = 4
  steps = 4
}
"""
POINTS = "x,y,class\n0.5,1.0,0\n1.5,-0.5,1\n-1.0,0.25,2\n"

EXTERN = """\
dim B
extern fn twice(x: Tensor[B]) -> Tensor[B] from "twice.py"
model Net { forward(x: Tensor[B]) -> y: Tensor[B] = twice(x) }
"""

TWICE = """\
def torch(x):
    return x + x


def onnx(g, x):
    return g.op("Add", x, x)
"""

SUMS = """\
dim B
model Net(dim: int = 4) {
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = x
}
test Net "sizes" with B = 2 {
  expect count_params() == 16
}
"""

LOCK = """\
version = 1
<<<<<<< ours

[[extern]]
path = "twice.py"
"""

LONG = "let a = 1\n" * 160_000


@dataclass(frozen=True)
class Session:
    """Files by name, what is refused, and what works: commands, or Python behind `>>> `."""

    files: dict[str, str]
    refused: list[str]
    mend: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)  # written after `before`
    mended: dict[str, str] = field(default_factory=dict)  # written before the mend


TABLE = """\
from std.nn import Embedding, Linear
dim B
model Net(dim: int = 40) {
  table: Embedding(7, dim)
  fc: Linear(dim, dim)
  head: Linear(dim, 7)
  forward(ids: Int[B]) -> y: Tensor[B, 7] = head(relu(fc(table(ids))))
}
"""

BUILD = "specc build net.spec --no-render"
NAMED = 'true if kind == "biased" else false if kind == "plain"'
UNBIASED = f"{BUILD} --set bias=false --no-verify"
STEPS = "specc build lm.spec --no-render --no-verify"
FUSE = f"{STEPS} --entry decode --cache concat --fuse-once"

GENERATE = "specc generate build/lm --no-stats"


def generation(refused: str, mend: str) -> Session:
    return Session({"lm.spec": WRITER}, [refused], [mend], before=[f"{STEPS} --cache static=4"])


SESSIONS = {
    "P090": Session({"big.spec": LONG}, ["specc check big.spec"]),
    "E006": Session(
        {
            "net.spec": NET,
            "net.onnx": "\x08\x0b\x12\x05specc",
            "graph.spec": "\x08\x0b\x12\x05specc",
            "model.safetensors": "\x02",
            "model.gguf": "GGUF\x03",
            "model.pt": "PK\x03\x04",
            "sources.zip": "PK\x03\x04",
            "config.json": "{}",
        },
        [
            "specc check net.onnx",
            "specc build graph.spec",
            "specc build model.safetensors",
            "specc inspect net.onnx",
            "specc check model.gguf",
            "specc check model.pt",
            "specc check sources.zip",
            "specc check config.json",
        ],
        ["specc check net.spec"],
    ),
    "E007": Session(
        {"two.spec": NET + NET.replace("Net", "Wide").replace("dim B\n", ""), "blocks.spec": "block Net { }\n"},
        ["specc build two.spec", "specc build blocks.spec"],
        ["specc build two.spec --model Wide --no-render"],
    ),
    "E009": Session(
        {"net.spec": NET, "head.spec": NET.replace("dim: int = 4", 'dim: int = 4, pool: "cls" | "mean" = "cls"')},
        [
            "specc check net.spec --set dmi=8",
            "specc check net.spec --set dim=2.5",
            "specc check net.spec --set dim=wide",
            "specc check head.spec --set pool=maen",
            "specc inspect net.spec --at T=4",
            "specc inspect net.spec --device h300 --at B=1",
            "specc inspect net.spec --device h100",
            "specc inspect net.spec --fit lots",
            "specc inspect net.spec --fit 1GB --at T=4",
        ],
        ["specc check net.spec --set dim=8"],
    ),
    "D406": Session(
        {"lm.spec": DECODER.replace("cached(x, along = T)", "tanh(cached(x, along = T))")},
        [f"{STEPS} --cache static=16"],
        [f"{STEPS} --cache static=16"],
        mended={"lm.spec": DECODER.replace("cached(x,", "cached(tanh(x),")},
    ),
    "B670": Session(
        {"net.spec": NET, "table.spec": TABLE, "scaled.spec": SCALED},
        [
            f"{BUILD} --quant int2",
            f"{BUILD} --quant int8:block=32",
            f"{BUILD} --quant int4:block=48",
            f"{BUILD} --quant int4:asym,sym",
            f"{BUILD} --quant int8 --no-weights",
            f"{BUILD} --quant int8 --emit torch",
            f"{BUILD} --quant int8",
            "specc build scaled.spec --no-render --quant int8",
            "specc build linear --no-render --quant int8",
            "specc build table.spec --no-render --quant int4:embed",
            "specc build table.spec --no-render --quant int4:head --quant-text table.spec",
        ],
        ["specc build table.spec --no-render --quant int4:head"],
    ),
    "W332": Session(
        {"net.spec": CONFIG},
        ["specc export build/net --to hf"],
        [UNBIASED, "specc export build/net --to hf"],
        before=[UNBIASED],
        mended={"net.spec": CONFIG.replace("{ dim = hidden_size }", "{ dim = hidden_size; bias = use_bias }")},
    ),
    "W335": Session(
        {"net.spec": CONFIG.replace("= hidden_size", '= hidden_size; bias = true if kind == "biased" else false')},
        ["specc export build/net --to hf"],
        [UNBIASED, "specc export build/net --to named"],
        before=[UNBIASED],
        mended={"net.spec": CONFIG.replace("= hidden_size", f"= hidden_size; bias = {NAMED}")},
    ),
    "T520": Session(
        {"net.spec": SUMS},
        ["specc test net.spec"],
        ["specc test net.spec"],
        mended={"net.spec": SUMS.replace("16", "0")},
    ),
    "B601": Session(
        {"net.spec": NET},
        ['>>> build(Request("net.spec", opset=9, render=False))'],
        ['>>> build(Request("net.spec", opset=17, render=False))'],
    ),
    "B620": Session({"net.spec": NET, "lm.spec": DECODER}, [f"{BUILD} --cache concat"], [f"{STEPS} --cache concat"]),
    "B621": Session(
        {"lm.spec": DECODER, "bias.spec": TOKENS.replace("k, v, causal", "k, v, bias = zeros([1, T, S]), causal")},
        [f"{STEPS} --target genai", f"{STEPS.replace('lm', 'bias')} --target genai"],
        [f"{STEPS} --target genai"],
        mended={"lm.spec": TOKENS},
    ),
    "B622": Session(
        {
            "net.spec": NET,
            "part.spec": PLACES.replace("wpe(positions(T))", "own(wte(input_ids)) + wpe(positions(T))"),
            "two.spec": PLACES.replace("wpe(positions(T))", "wpe(positions(T)) + wpe(positions(B))[:, none]"),
            "own.spec": PLACES.replace("T]) ->", "T], position_ids: Int[B, T]) ->"),
            "texts.spec": PLACES.replace("input_ids: Int[B, T]", "input_ids: Int[T, B]"),
        },
        [f"specc build {name}.spec --no-render --position-ids" for name in ("net", "part", "two", "own", "texts")],
        [f"{BUILD} --position-ids"],
        mended={"net.spec": PLACES},
    ),
    "B623": Session(
        {
            "lm.spec": DECODER,
            "both.spec": BOTH,
            "read.spec": BOTH.replace("+ sdpa(x, k, v)", "+ sdpa(x, k, v) + mean(memory)"),
            "types.spec": BOTH.replace("= tanh(source)", "= tanh(source[:, :, :, :4])").replace(
                "memory: Tensor[B, 2, N, dim] =", "memory: Tensor[B, 2, N, 4] ="
            ),
            "names.spec": BOTH.replace("encode(source:", "encode(x:").replace("tanh(source)", "tanh(x)"),
        },
        [
            f"{STEPS} --cache concat --fuse-once forward",
            f"{FUSE.replace('lm', 'both')} decode",
            f"{FUSE.replace('lm', 'read')} encode",
            f"{FUSE.replace('lm', 'types')} encode",
            f"{FUSE.replace('lm', 'names')} encode",
        ],
        [f"{FUSE} encode"],
        mended={"lm.spec": BOTH},
    ),
    "B630": Session(
        {"net.spec": EXTERN, "twice.py": TWICE.replace('"Add"', '"Mul"')},
        [f"{BUILD} --trust twice.py"],
        [f"{BUILD} --trust twice.py"],
        mended={"twice.py": TWICE},
    ),
    "B631": Session(
        {"net.spec": NET, "other.spec": NET.replace("relu(x)", "tanh(x)")},
        [">>> assert_equivalent('net.spec', 'other.spec')"],
        [">>> assert_equivalent('net.spec', 'other.spec')"],
        mended={"other.spec": NET.replace("relu(x)", "where(x > 0, x, 0.0)")},
    ),
    "W353": Session({"net.spec": WIDE}, [f"{BUILD} --dtype f16"], [f"{BUILD} --dtype bf16"]),
    "B640": Session({"net.spec": NET}, [f"{BUILD} --no-verify"], [f"{BUILD} --no-verify"]),
    "B641": Session(
        {},
        ["specc build llama --preset llama-2-7b --no-render"],
        ["specc build llama --preset llama-2-7b --no-render --no-weights"],
    ),
    "B650": Session(
        {"net.spec": TRAINED.replace('"class")', 'abs(column("class")))'), "points.csv": POINTS},
        ["specc train net.spec"],
        ["specc train net.spec"],
        mended={"net.spec": TRAINED},
    ),
    "T530": Session(
        {"net.spec": TRAINED, "points.csv": POINTS},
        ["specc train net.spec point --dry-run"],
        ["specc train net.spec points --dry-run"],
    ),
    "T531": Session(
        {"net.spec": TRAINED, "points.csv": POINTS.replace("-0.5,1", "-0.5,3")},
        ["specc train net.spec --dry-run"],
        ["specc train net.spec --dry-run"],
        mended={"points.csv": POINTS},
    ),
    "T532": Session(
        {"net.spec": TRAINED, "points.csv": POINTS.replace("0.5", "50")},
        ["specc train net.spec --set lr=1e38"],
        ["specc train net.spec --set lr=1e-2"],
    ),
    "T533": Session(
        {"net.spec": TRAINED, "points.csv": POINTS, "notes/todo.txt": "tea"},
        [
            "specc train --resume notes",
            "specc train --resume run --max-steps 4 --set batch=2",
            "specc train --resume run --out other",
        ],
        ["specc train net.spec points --weights run --set batch=2"],
        before=["specc train net.spec --out run --max-steps 1"],
        changed={
            "net.spec": TRAINED.replace("= fc(x)", "= relu(fc(x))"),
            "points.csv": POINTS.replace("0.25", "0.75"),
        },
    ),
    "T534": Session(
        {"net.spec": TRAINED, "points.csv": POINTS},
        ["specc train net.spec --out run"],
        ["specc train net.spec --out smaller --set batch=2"],
    ),
    "B660": Session(
        {"net.spec": NET, "notes/todo.txt": "tea"},
        [
            f"{BUILD} -o notes",
            "specc verify notes",
            "specc verify build/net",
            "specc verify build/net/model.onnx",
            "specc generate net.spec --ids 1",
            "specc verify build/other",
        ],
        [BUILD],
        before=[BUILD],
        changed={"build/net/net.py": "# my own\n"},
    ),
    "G701": Session(
        {"lm.spec": WRITER},
        [f"{GENERATE} --ids 1,2,3,4,5,6"],
        [f"{STEPS} --cache static=8", f"{GENERATE} --ids 1,2,3,4,5,6"],
        before=[f"{STEPS} --cache static=4"],
    ),
    "G702": generation(f"{GENERATE} --prompt Hello", f"{GENERATE} --ids 1,2"),
    "G703": generation(f"{GENERATE} --ids 1,99", f"{GENERATE} --ids 1,19"),
    "G704": generation(f'{GENERATE} --ids ""', f"{GENERATE} --ids 1"),
    "G705": Session(
        {"lm.spec": DECODER},
        [f"{GENERATE} --ids 1"],
        [f"{STEPS} --cache concat", f"{GENERATE} --ids 1"],
        before=[f"{STEPS} --cache concat"],
        mended={"lm.spec": WRITER},
    ),
    "G706": generation(f"{GENERATE} --ids 1 --device cuda", f"{GENERATE} --ids 1 --device cpu"),
    "G707": generation(f"{GENERATE} --ids 1 --temperature -1", f"{GENERATE} --ids 1 --temperature 0.7"),
    "X905": Session(
        {"net.spec": EXTERN, "twice.py": TWICE, "specc.lock": LOCK},
        ["specc trust --list"],
        ["specc trust twice.py"],
        mended={"specc.lock": "version = 1\n"},
    ),
}

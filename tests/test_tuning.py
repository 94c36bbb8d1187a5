"""Fine-tuning: checkpoints as the start of a run, heads that are replaced, LoRA, what it leaves and what ships it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.against import compare
from specc_runtime.build import Request as BuildRequest
from specc_runtime.build import build
from specc_runtime.export import export
from specc_runtime.merging import merge_run
from specc_runtime.module import Build, open_build
from specc_runtime.training.evaluation import Request as EvalRequest
from specc_runtime.training.evaluation import evaluate
from specc_runtime.training.run import Request, train

pytestmark = pytest.mark.usefixtures("one_thread")

SPECS = Path(__file__).parent.parent / "specs"
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
LABELS: dict[str, Any] = {"num_labels": 3}
LORA = 'lora(rank = 2, alpha = 4, targets = ["*.self.query", "*.self.value"])'
BERT = f"""
train Bert "tune" {{
  data    = npz("rows.npz", input_ids = "ids", label = "label")
  weights = "hf:bert"
  loss    = cross_entropy(logits, data.label)
  optim   = adamw(lr = 1e-2, no_decay = ["classifier.bias"])
  lora    = {LORA}
  batch   = 8
  epochs  = 2
}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with its section, rows, and checkpoints that it may begin with."""
    place = tmp_path_factory.mktemp("tuning")
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, **LABELS)
    transformers.BertForSequenceClassification(config).save_pretrained(place / "bert")
    transformers.BertModel(config).save_pretrained(place / "body")
    ids = np.random.default_rng(0).integers(3, 50, (16, 6))
    np.savez(place / "rows.npz", ids=ids, label=(ids[:, 1] > 25).astype(int))
    (place / "bert.spec").write_text(sections_of("bert") + BERT)
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run with LoRA whose head has another size than the checkpoint's."""
    out = folder / "run"
    train(Request(str(folder / "bert.spec"), sets={"labels": "4"}, out=out))
    return out


def sections_of(name: str) -> str:
    """A spec of the zoo without its train and test sections."""
    return re.sub(r"^(train|test) [^{]*\{.*?^\}\n", "", (SPECS / f"{name}.spec").read_text(), flags=re.S | re.M)


def plan(spec: Path, **given: Any) -> str:
    said: list[str] = []
    assert train(Request(str(spec), dry_run=True, **given), said.append) is None
    return said[0]


def refused(spec: Path, **given: Any) -> str:
    with pytest.raises(Rejected) as caught:
        train(Request(str(spec), dry_run=True, **given))
    return report.full(caught.value.diagnostics)


def built(spec: Path, weights: Path, out: Path, **given: Any) -> Build:
    """A build with its certificate."""
    made = build(BuildRequest(str(spec), weights=str(weights), render=False, out=out, **given))
    assert "torch and onnxruntime agree" in made.proof
    return open_build(made.folder)


# ---- what a run begins with ------------------------------------------------------------------------------------------


def test_a_head_of_another_size_is_fresh_and_told(folder: Path) -> None:
    told = plan(folder / "bert.spec", sets={"labels": "4", "lora": "none"})
    assert (
        "classifier.weight [4, 16] (the checkpoint has [3, 16]); classifier.bias [4] (the checkpoint has [3])" in told
    )
    assert "5,908 trained, 0 frozen" in told  # sizes are those of config.json
    assert "fresh" not in plan(folder / "bert.spec", sets={"lora": "none"})
    assert "fresh        classifier.weight [3, 16]" in plan(
        folder / "bert.spec", sets={"lora": "none", "fresh": '["classifier"]'}
    )


def test_a_body_alone_gets_a_head(folder: Path) -> None:
    """All is trained but what `freeze` names."""
    sets = {"lora": "none", "freeze": '["bert.embeddings"]'}
    given: dict[str, Any] = {"sets": sets, "weights": str(folder / "body")}
    assert "fresh        classifier.weight [3, 16]; classifier.bias [3]" in plan(folder / "bert.spec", **given)
    train(Request(str(folder / "bert.spec"), out=folder / "whole", max_steps=2, **given))
    before = load_file(folder / "body/model.safetensors")
    after = load_file(folder / "whole/model.safetensors")
    for name, tensor in before.items():
        assert np.array_equal(tensor, after[f"bert.{name}"]) == name.startswith("embeddings."), name


def test_a_run_begins_where_another_ended(folder: Path, run: Path) -> None:
    """Its preset and sizes are the earlier run's; its adapters are folded; another head has to be asked for."""
    spec = folder / "bert.spec"
    assert "324 trained" not in plan(spec, weights=str(run))  # the head is there: adapters alone are trained
    shown = refused(spec, weights=str(run), sets={"labels": "5"})
    assert "wrong shape in the file for classifier.weight" in shown and 'fresh = ["classifier"]' in shown
    told = plan(spec, weights=str(run), sets={"labels": "5", "fresh": '["classifier"]'})
    assert "classifier.weight [5, 16] (the checkpoint has [4, 16])" in told
    train(Request(str(spec), weights=str(run), sets={"lora": "none", "lr": "0.0"}, max_steps=1, out=folder / "more"))
    folded = load_file(merge_run(run, folder / "folded").file)
    again = load_file(folder / "more/model.safetensors")
    assert all(np.array_equal(folded[name], again[name]) for name in folded)


# ---- LoRA ------------------------------------------------------------------------------------------------------------


def test_what_lora_trains_is_told(folder: Path) -> None:
    assert "26 more tensors" in plan(folder / "bert.spec", sets={"lora": "none", "fresh": '["bert.encoder"]'})
    told = plan(folder / "bert.spec", sets={"labels": "4"})
    assert "324 trained, 5,840 frozen" in told  # 4 adapters of 2 * (16 + 16), a head of 68
    assert f"adapters     256 parameters in 4 parts: {LORA}" in told
    amounts = [float(text) for text in re.findall(r"(?:memory|full tuning) +about ([\d.]+) kB", told)]
    assert len(amounts) == 2 and amounts[0] < amounts[1]


def test_lora_changes_what_it_names_alone(folder: Path, run: Path) -> None:
    """Adapters in peft's format, and nothing else; folded, they are in their targets."""
    assert {path.name for path in (run / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert not (run / "model.safetensors").exists()
    before = load_file(folder / "bert/model.safetensors")
    after = load_file(merge_run(run, folder / "merged").file)
    changed = {
        name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }
    targets = {f"bert.encoder.layer.{i}.attention.self.{part}.weight" for i in (0, 1) for part in ("query", "value")}
    assert changed == targets | {"classifier.weight", "classifier.bias"}
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 4, ["classifier"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft's, in transformers 5
def test_peft_loads_the_adapters(folder: Path, run: Path) -> None:
    """Into the module of a build of the checkpoint: the same logits as folded."""
    import peft

    whole = built(folder / "bert.spec", run, folder / "shipped")
    ids = torch.tensor(np.load(folder / "rows.npz")["ids"])
    expected = whole.module()(ids)[0]
    start = dict(load_file(folder / "bert/model.safetensors"))
    start |= {"classifier.weight": np.zeros((4, 16), np.float32), "classifier.bias": np.zeros(4, np.float32)}
    (folder / "start").mkdir()
    save_file(start, folder / "start/model.safetensors")
    sets = json.loads((run / "run.json").read_text())["sets"]
    made = built(folder / "bert.spec", folder / "start", folder / "base", sets=sets)
    found = peft.PeftModel.from_pretrained(made.module(), str(run / "adapter"))
    assert torch.allclose(found.eval()(ids)[0], expected, atol=1e-5)
    kind: Any = transformers.BertForSequenceClassification  # parts have the names that this spec gives them
    theirs = kind.from_pretrained(folder / "bert", num_labels=4, ignore_mismatched_sizes=True)
    tuned = peft.PeftModel.from_pretrained(theirs, str(run / "adapter")).eval()
    assert torch.allclose(tuned(ids).logits, expected, atol=1e-5)


def test_a_build_of_adapters_is_that_of_their_merge(folder: Path, run: Path) -> None:
    """By either way the same file, its ONNX proved equal; transformers computes the same of its export."""
    merged = merge_run(run, folder / "aside")
    assert merged.next == f"specc build {folder / 'bert.spec'} --weights {folder / 'aside'}"
    first = built(folder / "bert.spec", run, folder / "direct")
    second = built(folder / "bert.spec", merged.file.parent, folder / "indirect")
    assert first.weights is not None and second.weights is not None
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert first.manifest["weights"]["source"] == "run"
    export(first.folder, str(folder / "exported"))
    kind: Any = transformers.BertForSequenceClassification
    theirs = kind.from_pretrained(folder / "exported").eval()
    ids = torch.tensor(np.load(folder / "rows.npz")["ids"])
    assert torch.allclose(theirs(ids).logits, first.module()(ids)[0], atol=1e-5)


def test_folded_in_place(folder: Path, run: Path) -> None:
    own = folder / "own"
    shutil.copytree(run, own)
    made = merge_run(own)
    assert made.file == own / "model.safetensors" and (own / "adapter").is_dir()
    built(folder / "bert.spec", own, folder / "of-own")


def test_a_run_moves_with_what_it_began_with(folder: Path, run: Path, tmp_path: Path) -> None:
    """And its merge, in a folder of its own, is a run like others."""
    there = tmp_path / "there"
    there.mkdir()
    for name in ("bert", "run"):
        shutil.copytree(folder / name, there / name)
    assert merge_run(there / "run", there / "alone").next.startswith(f"specc build {folder / 'bert.spec'} ")
    (there / "bert.spec").write_text((folder / "bert.spec").read_text())
    assert merge_run(there / "run", there / "apart").next.startswith(f"specc build {there / 'bert.spec'} ")
    shutil.copy(folder / "rows.npz", there)
    found = [evaluate(EvalRequest(one)).values for one in (run, there / "run", there / "apart")]
    assert found[0] == found[1] == found[2]


def test_the_seed_decides_what_adapters_begin_with(folder: Path, run: Path) -> None:
    def adapters(out: str, seed: str) -> bytes:
        sets = {"labels": "4", "seed": seed}
        train(Request(str(folder / "bert.spec"), sets=sets, out=folder / out))
        return (folder / out / "adapter/adapter_model.safetensors").read_bytes()

    assert (run / "adapter/adapter_model.safetensors").read_bytes() == adapters("same", "0") != adapters("other", "1")


def test_a_run_with_adapters_is_continued(folder: Path, run: Path) -> None:
    """Bit by bit as one that was never interrupted; what was folded meanwhile is no more."""
    out, spec = folder / "continued", str(folder / "bert.spec")
    train(Request(spec, sets={"labels": "4"}, out=out, max_steps=2))
    merge_run(out)
    train(Request(resume=out, max_steps=4))
    assert not (out / "model.safetensors").exists()
    first, second = ((one / "adapter/adapter_model.safetensors").read_bytes() for one in (run, out))
    assert first == second


DECODERS: dict[str, tuple[Any, Any, str]] = {
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**SIZES, num_key_value_heads=1),
        '"*.q_proj", "*.down_proj", "lm_head"',
    ),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16),
        '"*.c_attn"',
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, folder: Path, tmp_path: Path) -> None:
    """Through a run to a folder that transformers loads; GPT-2's files have the transposed layout of Conv1D."""
    kind, config, targets = DECODERS[name]
    kind(config).save_pretrained(tmp_path / "checkpoint")
    spec = tmp_path / f"{name}.spec"
    text = sections_of(name)
    [model] = re.findall(r"^model (\w+)", text, re.M)
    spec.write_text(
        f"""{text}
train {model} "tune" {{
  data  = npz("{folder}/rows.npz", input_ids = "ids")
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim = adamw(lr = 1e-2)
  lora  = lora(rank = 2, alpha = 8, dropout = 0.1, targets = [{targets}])
  batch = 8
  steps = 3
}}
"""
    )
    train(Request(str(spec), weights=str(tmp_path / "checkpoint"), out=tmp_path / "run"))
    made = built(spec, tmp_path / "run", tmp_path / "build")
    export(made.folder, str(tmp_path / "exported"))
    theirs = kind.from_pretrained(tmp_path / "exported").eval()
    first = kind.from_pretrained(tmp_path / "checkpoint").eval()
    ids = torch.tensor(np.load(folder / "rows.npz")["ids"])
    found, ours = theirs(ids).logits, made.module()(ids)
    logits = ours[0] if isinstance(ours, tuple) else ours
    assert torch.allclose(found, logits, atol=1e-5)
    assert not torch.allclose(found, first(ids).logits, atol=1e-3)


KINDS = """\
from std.nn import Conv2d, Embedding, Linear
dim B
model Net(dim: int = 4) {
  table: Embedding(10, dim)
  conv:  Conv2d(1, dim, 3, padding = 1)
  body:  { inner: Linear(dim, dim) }
  head:  Linear(dim, 2)
  forward(image: Tensor[B, 1, 4, 4], kind: Int[B]) -> logits: Tensor[B, 2] {
    x = mean(conv(image), axis = [2, 3]) + table(kind)
    return head(body.inner(x) @ transpose(USED, 0, 1))
  }
}
train Net "first" {
  data  = npz("kinds.npz", image = "image", kind = "kind", label = "label")
  loss  = cross_entropy(logits, data.label)
  optim = adamw(lr = 1e-2)
  batch = 8
  steps = 2
}
train Net "second" {
  data  = npz("kinds.npz", image = "image", kind = "kind", label = "label")
  loss  = cross_entropy(logits, data.label)
  optim = adamw(lr = 1e-2)
  lora  = lora(rank = 2, alpha = 4, targets = ["table", "conv", "body.*"])
  fresh = ["head"]
  batch = 8
  steps = 2
}
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with parts of other kinds, and a run of it."""
    place = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"image": rng.normal(size=(8, 1, 4, 4)).astype(np.float32), "kind": rng.integers(0, 10, 8)}
    np.savez(place / "kinds.npz", **arrays, label=rng.integers(0, 2, 8))
    (place / "net.spec").write_text(KINDS.replace(" @ transpose(USED, 0, 1)", ""))
    train(Request(str(place / "net.spec"), "first", out=place / "first"))
    return place


def test_tables_and_convolutions(kinds: Path) -> None:
    spec = kinds / "net.spec"
    train(Request(str(spec), "second", weights=str(kinds / "first"), out=kinds / "second"))
    state = load_file(kinds / "second/adapter/adapter_model.safetensors")
    prefix = "base_model.model."
    parts = {name.removeprefix(prefix).partition(".lora")[0] for name in state}
    assert parts == {"table", "conv", "body.inner", "head.weight", "head.bias"}
    made = built(spec, kinds / "second", kinds / "build")
    before = load_file(kinds / "first/model.safetensors")
    assert made.weights is not None
    after = load_file(made.weights)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {"conv.bias", "body.inner.bias"}


def test_statistics_of_frozen_parts_stay(kinds: Path, tmp_path: Path) -> None:
    """A batch norm that is not trained does not go on averaging what it sees, and computes as what is shipped does."""
    shutil.copy(kinds / "kinds.npz", tmp_path)
    spec = tmp_path / "norm.spec"
    text = (kinds / "net.spec").read_text().replace("import Conv2d", "import BatchNorm2d, Conv2d")
    text = text.replace("  body:", "  norm:  BatchNorm2d(dim)\n  body:").replace("conv(image)", "norm(conv(image))")
    spec.write_text(text)
    train(Request(str(spec), "first", out=tmp_path / "first"))
    before = load_file(tmp_path / "first/model.safetensors")
    assert before["norm.running_mean"].any()
    given: dict[str, Any] = {"name": "second", "weights": str(tmp_path / "first")}
    sets = {"lora": "none", "fresh": "[]", "freeze": '["conv", "norm"]'}
    train(Request(str(spec), sets=sets, out=tmp_path / "second", **given))
    after = load_file(tmp_path / "second/model.safetensors")
    frozen = {name for name in before if name.startswith(("conv.", "norm."))}
    assert {name for name in before if np.array_equal(before[name], after[name])} == frozen
    train(Request(str(spec), sets={"fresh": "[]", "lr": "0.0"}, out=tmp_path / "third", **given))
    first = float(next(csv.DictReader((tmp_path / "third/metrics.csv").open()))["loss"])
    assert evaluate(EvalRequest(tmp_path / "third")).values["loss"] == pytest.approx(first, rel=1e-6)


def test_names_that_peft_cannot_tell_apart(kinds: Path) -> None:
    spec = kinds / "alike.spec"
    spec.write_text((kinds / "net.spec").read_text().replace("inner", "head"))
    train(Request(str(spec), "first", out=kinds / "alike"))
    shown = refused(spec, name="second", weights=str(kinds / "alike"))
    assert "`lora` beside a fresh part whose name body.head ends with" in shown


# ---- mistakes, before anything is trained ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "shown"),
    [
        ({"lora": 'lora(rank = 0, alpha = 4, targets = ["*.query"])'}, "E125"),
        ({"lora": 'lora(rank = 2, alpha = 4, targets = ["*.q_proj"])'}, 'did you mean "*.query"?'),
        ({"lora": 'lora(rank = 2, alpha = 4, targets = ["*.LayerNorm"])'}, "LoRA adapts Linear"),
        ({"lora": 'lora(r = 2, alpha = 4, targets = ["*.query"])'}, "did you mean `rank`?"),
        ({"freeze": '["bert.encoder.layer.0"]'}, "error[T506]"),
        ({"freeze": '["bert.encodr"]'}, "error[T505]"),
        ({"freeze": '["*"]', "lora": "none"}, "freezes every parameter"),
        ({"fresh": '["head"]'}, "`fresh` pattern matches no parameter"),
        ({"fresh": '["bert.encoder"]'}, "`lora` adapts nothing"),
        ({"weights": "none"}, "error[E124]: `lora` adapts weights that were trained"),
        ({"weights": '"hf:someone/bert"'}, "hf download REPO"),
    ],
)
def test_mistakes(sets: dict[str, str], shown: str, folder: Path) -> None:
    assert shown in refused(folder / "bert.spec", sets=sets)


def test_what_is_missing_is_named_with_its_command(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specc_runtime.libraries.find_spec", lambda name: None)
    assert "pip install 'specc-ml[train]'" in refused(folder / "bert.spec")
    with pytest.raises(Rejected, match="a run with adapters needs peft"):
        merge_run(run, tmp_path / "out")


def test_weights_of_another_architecture(folder: Path, tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(DECODERS["llama"][1]).save_pretrained(tmp_path / "llama")
    assert 'no weights section for "hf:llama"' in refused(folder / "bert.spec", weights=str(tmp_path / "llama"))
    assert "there is no checkpoint" in refused(folder / "bert.spec", weights=str(tmp_path / "nothing"))


def test_an_adapter_that_nothing_would_reach(kinds: Path) -> None:
    """A weight that is used by name passes by the part's adapter."""
    spec = kinds / "named.spec"
    spec.write_text(
        KINDS.replace("head(body.inner(x) @ transpose(USED, 0, 1))", "head(x @ transpose(body.inner.weight, 0, 1))")
    )
    assert "`lora` adapts body.inner, which the entry does not call" in refused(
        spec, name="second", weights=str(kinds / "first")
    )


def test_fresh_parts_that_peft_cannot_keep(folder: Path, tmp_path: Path) -> None:
    """A tied table, of which it would train a copy; a parameter that lies in no part of its own."""
    spec = tmp_path / "lm.spec"
    spec.write_text(
        f"""\
from std.nn import Embedding, Linear
dim B, T
model LM {{
  param scale: Tensor[8] = ones()
  table: Embedding(50, 8)
  fc:    Linear(8, 8)
  head:  Linear(8, 50, bias = false)
  tie head.weight = table.weight
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, 50] = head(fc(table(input_ids)) * scale)
}}
train LM {{
  data  = npz("{folder}/rows.npz", input_ids = "ids")
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim = adamw(lr = 1e-2)
  batch = 8
  steps = 1
}}
"""
    )
    train(Request(str(spec), out=tmp_path / "first"))
    lora = 'lora(rank = 2, alpha = 4, targets = ["fc"])'
    for fresh, shown in (("table", "table.weight, which is tied"), ("scale", "scale, which has no part of its own")):
        sets = {"lora": lora, "fresh": f'["{fresh}"]'}
        assert shown in refused(spec, weights=str(tmp_path / "first"), sets=sets)


def test_adapters_that_fit_no_more(folder: Path, run: Path, tmp_path: Path) -> None:
    def refusal(changed: Path, **given: Any) -> str:
        with pytest.raises(Rejected) as caught:
            merge_run(changed, tmp_path / "out", **given)
        assert not (tmp_path / "out").exists()
        return report.full(caught.value.diagnostics)

    other = tmp_path / "other"
    transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).save_pretrained(other)
    assert "is not what the run began with" in refusal(run, weights=str(other))
    torn = tmp_path / "torn"
    shutil.copytree(run, torn)
    (torn / "adapter/adapter_model.safetensors").write_bytes(b"torn")
    assert "cannot be read" in refusal(torn)
    state = load_file(run / "adapter/adapter_model.safetensors")
    state.pop(next(name for name in state if "lora_A" in name))
    save_file(state, torn / "adapter/adapter_model.safetensors")
    assert "are not of this model" in refusal(torn)
    assert "is no run" in refusal(folder / "bert")
    found = compare(str(folder / "bert.spec"), str(run), preset=None, model=None, sets={})
    assert f"specc merge {run}" in report.full(found)
    (folder / "bert").rename(folder / "moved")
    assert "which is not there any more" in refusal(run)
    assert merge_run(run, tmp_path / "found", weights=str(folder / "moved")).tensors == 41
    (folder / "moved").rename(folder / "bert")
    assert "has no adapters" in refusal(merge_run(run, tmp_path / "merged").file.parent)

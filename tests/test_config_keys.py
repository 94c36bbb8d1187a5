"""What a config.json says is used or refused, never passed over: every family of the zoo, key by key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from specc import driver, report
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.models import Given, Options
from specc.syntax import ast
from specc.weights.config import file_functions, read_config
from specc.weights.config_keys import HARMLESS
from specc_runtime.families import families

transformers = pytest.importorskip("transformers")
Config = dict[str, Any]

FAMILIES = {family.source.removeprefix("hf:"): family for family in families()}


def default(kind: str, folder: Path) -> Config:
    """The config.json that transformers writes for the family's default configuration."""
    transformers.AutoConfig.for_model(kind).save_pretrained(folder)
    found: Config = json.loads((folder / "config.json").read_text())
    return found


def merged(config: Config, changes: Mapping[str, Any]) -> Config:
    """`changes` in a copy of a config, `a.b` in the object under `a`."""
    result = dict(config)
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        result[name] = merged(result.get(name) or {}, {rest: value}) if rest else value
    return result


def read(config: Config) -> tuple[dict[str, Any], list[Diagnostic]]:
    """Every hyper-parameter by a config, and what is said of it."""
    family = FAMILIES[config["model_type"]]
    project = driver.open_project(family.spec)
    decl = next(d for d in project.file.models() if d.name == family.model)
    node = next(
        item
        for item in project.file.tree.items
        if isinstance(item, ast.Weights) and family.source in [text.value for text in item.sources]
    )
    collector = Collector()
    found = read_config(node, decl.node.params, config, collector, names=file_functions(project.file))
    if collector.found:
        return {}, collector.found
    given = {name: Given(None, setting.value, setting.origin) for name, setting in found.items()}
    try:
        module = project.check(Options(model=decl.name, config=given)).model.module
    except Rejected as rejected:
        return {}, list(rejected.diagnostics)
    return {hyper.name: hyper.value for hyper in module.hypers}, []


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_key_of_the_default_is_accounted_for(kind: str, tmp_path: Path) -> None:
    _, found = read(default(kind, tmp_path))
    assert not found, report.full(found)


REFUSED: dict[str, list[Config]] = {
    "bart": [
        {"tie_word_embeddings": False}, {"encoder_layerdrop": 0.1}, {"decoder_layerdrop": 0.1},
        {"normalize_before": True}, {"add_final_layer_norm": True}, {"static_position_embeddings": True},
        {"extra_pos_embeddings": 0}, {"is_decoder": True}, {"add_cross_attention": True},
    ],
    "bert": [
        {"is_decoder": True}, {"add_cross_attention": True}, {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "relative_key_query"}, {"hidden_act": "xielu"}, {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 4}}, {"adapters": {"config": "houlsby"}},
    ],
    "clip": [
        {"text_config.attention_dropout": 0.1}, {"vision_config.attention_dropout": 0.1},
        {"text_config.hidden_act": "xielu"}, {"vision_config.image_size": [224, 192]},
        {"vision_config.qkv_bias": False}, {"text_config_dict": {"hidden_size": 768, "rotary": True}},
    ],
    "convnext": [{"num_stages": 3}, {"hidden_act": "xielu"}, {"use_grn": True}],
    "distilbert": [{"is_decoder": True}, {"activation": "xielu"}, {"position_embedding_type": "relative_key"}],
    "gemma": [
        {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 2.0}, {"use_bidirectional_attention": True},
        {"hidden_act": "xielu"}, {"hidden_activation": "relu"}, {"attn_logit_softcapping": 50.0},
    ],
    "gemma2": [
        {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 2.0}, {"use_bidirectional_attention": True},
        {"hidden_activation": "xielu"}, {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"layer_types": ["chunked_attention"] * 26},
    ],
    "gpt2": [
        {"attn_pdrop": 0.2}, {"embd_pdrop": 0.2}, {"scale_attn_weights": False}, {"reorder_and_upcast_attn": True},
        {"scale_attn_by_inverse_layer_idx": True}, {"tie_word_embeddings": False}, {"add_cross_attention": True},
    ],
    "deepseek_v2": [{"scoring_func": "sigmoid"}, {"norm_topk_prob": True}, {"rope_parameters.rope_type": "dynamic"}],
    "deepseek_v3": [
        {"scoring_func": "softmax"}, {"moe_layer_freq": 2}, {"quantization_config": {"quant_method": "fp8"}},
        {"num_key_value_heads": 8}, {"hidden_act": "xielu"}, {"index_topk": 2048},
    ],
    "efficientnet": [{"pooling_type": "max"}, {"hidden_dim": 2048}],
    "gemma3_text": [
        {"attn_logit_softcapping": 50.0}, {"use_bidirectional_attention": True}, {"hidden_activation": "xielu"},
        {"rope_parameters.full_attention.rope_type": "yarn"}, {"rope_parameters.sliding_attention.rope_type": "linear"},
        {"layer_types": ["full_attention"]},
    ],
    "modernbert": [
        {"rope_parameters.full_attention.rope_type": "yarn"}, {"hidden_activation": "xielu"}, {"num_experts": 8},
        {"layer_types": ["full_attention"]},
    ],
    "gpt_neox": [
        {"rope_parameters.rope_type": "dynamic"}, {"rope_parameters.beta_fast": 32}, {"is_decoder": True},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"hidden_act": "xielu"}, {"attention_window": 128},
    ],
    "llama": [
        {"rope_parameters.partial_rotary_factor": 0.5}, {"hidden_act": "xielu"}, {"use_mrope": True},
        {"layer_types": ["chunked_attention"] * 32}, {"rope_interleaved": True}, {"residual_multiplier": 0.5},
        {"rope_parameters.mrope_section": [16, 24, 24]}, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        {"rope_scaling": {"type": "ntk", "alpha": 1000.0}, "rope_parameters": None}, {"quantization_config": {"b": 4}},
    ],
    "mistral": [{"attention_chunk_size": 64}, {"sinks": 4}, {"layer_types": ["chunked_attention"] * 32}],
    "mixtral": [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"router_jitter_noise": 0.1}, {"partial_rotary_factor": 0.5}, {"rope_parameters.rope_type": "yarn"},
        {"hidden_act": "xielu"}, {"num_experts_per_tok": 9}, {"shared_expert_intermediate_size": 64},
    ],
    "phi3": [
        {"attention_bias": True}, {"hidden_act": "xielu"}, {"blocksparse_params": {"block_size": 64}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, {"rope_parameters.short_mscale": 1.1},
        {"rope_parameters.attention_factor": 2.0},
    ],
    "qwen2": [{"use_mrope": True}, {"layer_types": ["chunked_attention"] * 32}, {"rope_scaling.mrope_section": [1, 2]}],
    "qwen3": [{"hidden_act": "xielu"}, {"num_experts": 8}, {"rope_parameters.partial_rotary_factor": 0.25}],
    "qwen3_moe": [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters.rope_type": "yarn"}, {"rope_scaling": {"factor": 4.0}}, {"hidden_act": "xielu"},
        {"num_experts_per_tok": 129}, {"shared_expert_intermediate_size": 64}, {"layer_types": ["full_attention"]},
    ],
    "resnet": [{"layer_type": "preact"}, {"hidden_act": "xielu"}, {"depths": [1, 2, 3]}, {"groups": 2}],
    "roberta": [{"is_decoder": True}, {"add_cross_attention": True}, {"position_embedding_type": "relative_key"}],
    "t5": [{"is_decoder": True}, {"feed_forward_proj": "gated-xielu", "dense_act_fn": "xielu"}, {"use_gqa": True}],
    "vit": [
        {"image_size": [224, 192]}, {"patch_size": [16, 8]}, {"hidden_act": "xielu"}, {"use_mask_token": True},
        {"layerscale_value": 1.0},
    ],
    "whisper": [
        {"scale_embedding": True}, {"apply_spec_augment": True}, {"encoder_layerdrop": 0.1}, {"decoder_layerdrop": 0.1},
        {"activation_function": "xielu"}, {"is_decoder": True},
    ],
}  # fmt: skip
"""model_type -> changes of the default that its spec does not describe. The last key of each must be named."""

CASES = [
    pytest.param(kind, changes, id=f"{kind}-{next(iter(changes))}") for kind in REFUSED for changes in REFUSED[kind]
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_what_is_not_described_is_refused(kind: str, changes: Config, tmp_path: Path) -> None:
    _, found = read(merged(default(kind, tmp_path), changes))
    text = report.full(found)
    said = re.sub(r"^ *[0-9]+ \|.*$", "", text, flags=re.MULTILINE)  # a line of the spec has the key in any case
    keys = [key for key, value in changes.items() if value is not None]
    assert any(key.rpartition(".")[2] in said for key in keys), text


# ---- config.json files as they were published ------------------------------------------------------------------------

TEXT_V4: Config = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
    "bad_words_ids": None, "bos_token_id": 0, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "dropout": 0.0,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "finetuning_task": None,
    "hidden_act": "quick_gelu", "hidden_size": 512, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 2048, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-05,
    "length_penalty": 1.0, "max_length": 20, "max_position_embeddings": 77, "min_length": 0,
    "model_type": "clip_text_model", "no_repeat_ngram_size": 0, "num_attention_heads": 8, "num_beam_groups": 1,
    "num_beams": 1, "num_hidden_layers": 12, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_scores": False, "pad_token_id": 1, "prefix": None, "problem_type": None,
    "projection_dim": 512, "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None, "task_specific_params": None,
    "temperature": 1.0, "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None,
    "top_k": 50, "top_p": 1.0, "torch_dtype": None, "torchscript": False, "transformers_version": "4.16.0.dev0",
    "use_bfloat16": False, "vocab_size": 49408,
}  # fmt: skip
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_NO_TEXT = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "vocab_size")
VISION_V4 = {k: v for k, v in TEXT_V4.items() if k not in _NO_TEXT} | _VISION | {"model_type": "clip_vision_model"}

PUBLISHED: dict[str, Config] = {
    "bert-base-multilingual-uncased": {
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "directionality": "bidi",
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform", "position_embedding_type": "absolute", "type_vocab_size": 2,
        "use_cache": True, "vocab_size": 105879,
    },
    "distilbert-base-uncased": {
        "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
        "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
        "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
    },
    "gpt2": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
    },
    "t5-small": {
        "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
        "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
        "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
        "num_heads": 8, "num_layers": 6, "output_past": True, "pad_token_id": 0,
        "relative_attention_num_buckets": 32, "task_specific_params": {"summarization": {"num_beams": 4}},
        "vocab_size": 32128,
    },
    "bart-large": {
        "_name_or_path": "bart-large", "activation_dropout": 0.1, "activation_function": "gelu",
        "add_bias_logits": False, "add_final_layer_norm": False, "architectures": ["BartModel"],
        "attention_dropout": 0.1, "bos_token_id": 0, "classif_dropout": 0.1, "classifier_dropout": 0.0,
        "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0,
        "decoder_layers": 12, "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True,
        "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0, "encoder_layers": 12,
        "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "gradient_checkpointing": False,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
        "max_position_embeddings": 1024, "model_type": "bart", "no_repeat_ngram_size": 3, "normalize_before": False,
        "num_beams": 4, "num_hidden_layers": 12, "pad_token_id": 1, "scale_embedding": False,
        "task_specific_params": {"summarization": {"length_penalty": 1.0}}, "torch_dtype": "float32",
        "transformers_version": "4.7.0.dev0", "use_cache": True, "vocab_size": 50265,
    },
    "clip-vit-base-patch32": {
        "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
        "model_type": "clip", "projection_dim": 512, "text_config": TEXT_V4, "text_config_dict": None,
        "vision_config": VISION_V4, "vision_config_dict": None, "transformers_version": None,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
        "vocab_size": 128256,
    },
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
        "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
    },
    "qwen2.5-7b": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False, "use_cache": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064,
    },
    "gemma-2-9b": {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "gemma2",
        "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "sliding_window_size": 4096, "torch_dtype": "float32", "use_cache": True, "vocab_size": 256000,
    },
    "mixtral-8x7b": {
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0", "use_cache": True, "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    },
    "phi-3-mini-4k": {
        "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1,
        "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32064,
    },
    "gpt-neox-20b": {
        "architectures": ["GPTNeoXForCausalLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 0,
        "eos_token_id": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0, "hidden_size": 6144,
        "initializer_range": 0.02, "intermediate_size": 24576, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 64, "num_hidden_layers": 44,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
        "use_cache": True, "vocab_size": 50432,
    },
    "whisper-tiny": {
        "activation_dropout": 0.0, "activation_function": "gelu", "architectures": ["WhisperForConditionalGeneration"],
        "attention_dropout": 0.0, "begin_suppress_tokens": [220, 50257], "bos_token_id": 50257, "d_model": 384,
        "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "decoder_layerdrop": 0.0, "decoder_layers": 4,
        "decoder_start_token_id": 50258, "dropout": 0.0, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
        "encoder_layerdrop": 0.0, "encoder_layers": 4, "eos_token_id": 50257,
        "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]], "init_std": 0.02, "is_encoder_decoder": True,
        "max_length": 448, "max_source_positions": 1500, "max_target_positions": 448, "model_type": "whisper",
        "num_hidden_layers": 4, "num_mel_bins": 80, "pad_token_id": 50257, "scale_embedding": False,
        "suppress_tokens": [1, 2, 7], "torch_dtype": "float32", "use_cache": True, "vocab_size": 51865,
    },
}  # fmt: skip

_FACTORS = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]}
PUBLISHED["phi-3-mini-128k"] = {
    **PUBLISHED["phi-3-mini-4k"], "max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": _FACTORS,
}  # fmt: skip
PUBLISHED["phi-4-mini"] = {
    **PUBLISHED["phi-3-mini-128k"], "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064,
    "pad_token_id": 199999, "partial_rotary_factor": 0.75, "full_attn_mod": 1, "interpolate_factor": 1,
    "lm_head_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name: str) -> None:
    """Files of transformers 2 to 4, with the keys that those versions wrote."""
    _, found = read(PUBLISHED[name])
    assert not found, report.full(found)


V4: dict[str, tuple[Config, Config]] = {
    "llama": (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "dtype": "float16"},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5},
    ),
    "qwen3": (
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        {"rope_parameters": None, "rope_theta": 1e6},
    ),
    "gemma2": (
        {"rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}},
        {"rope_parameters": None, "rope_theta": 2e4, "layer_types": None},
    ),
    "phi3": (
        {"rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 0.75, "rope_type": "default"}},
        {"rope_parameters": None, "rope_theta": 2e4, "partial_rotary_factor": 0.75},
    ),
    "gpt_neox": (
        {"rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 0.5, "rope_type": "default"}},
        {"rope_parameters": None, "rotary_emb_base": 2e4, "rotary_pct": 0.5},
    ),
    "bert": ({}, {"position_embedding_type": "absolute", "torch_dtype": "float32", "gradient_checkpointing": False}),
    "vit": ({"id2label": {"0": "a", "1": "b", "2": "c"}}, {"num_labels": 3}),
}  # fmt: skip


@pytest.mark.parametrize("kind", V4)
def test_old_names_of_keys(kind: str, tmp_path: Path) -> None:
    """What versions 5 and 4 of transformers write for one model reads as one model."""
    new, old = ({**default(kind, tmp_path), **changes} for changes in V4[kind])
    (hypers, found), (before, more) = read(new), read(old)
    assert not found and not more, report.full([*found, *more])
    assert hypers == before


def test_of_two_places_the_one_that_counts(tmp_path: Path) -> None:
    """Old CLIP files have both sides twice and the second counts; so does `rope_scaling`, not its new name."""
    config = default("clip", tmp_path)
    second = {"text_config_dict": {"hidden_size": 256}, "vision_config_dict": {"num_hidden_layers": 3}}
    hypers, found = read({**config, **second})
    assert not found and (hypers["text_dim"], hypers["vision_layers"]) == (256, 3)
    theirs = transformers.CLIPConfig(**{**config, **second})
    assert (theirs.text_config.hidden_size, theirs.vision_config.num_hidden_layers) == (256, 3)
    config = {**default("qwen2", tmp_path), "rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6}
    hypers, _ = read(config)
    rope = transformers.Qwen2Config(**config).rope_parameters
    assert (hypers["rope"], hypers["rope_factor"], hypers["theta"]) == ("yarn", 4.0, 1e6)
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("yarn", 4.0, 1e6)


def test_a_missing_window_is_the_familys(tmp_path: Path) -> None:
    config = default("mistral", tmp_path)
    for window in (4096, 16, None):
        assert read({**config, "sliding_window": window})[0]["window"] == window
    del config["sliding_window"]
    assert read(config)[0]["window"] == 4096


def test_harmless_keys_are_of_transformers() -> None:
    """Their reasons fit only keys that every family shares: none may shape a layer."""
    assert not {"hidden_act", "tie_word_embeddings", "layer_types", "sliding_window", "rope_scaling"} & HARMLESS.keys()
    assert all(HARMLESS.values())

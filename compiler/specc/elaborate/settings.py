"""The settings of `train` sections: what each takes, and what people call it elsewhere (LANGUAGE 16)."""

from __future__ import annotations

_SOURCES = ("csv", "parquet", "json", "jsonl", "text", "hf_dataset", "image_folder", "audio_folder", "npz")

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "data": _SOURCES,
    "val": ("split", *_SOURCES),
    "optim": ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "adafactor", "muon"),
    "sched": ("constant", "linear", "cosine", "one_cycle", "step", "plateau", "noam"),
    "inputs": ("bind",),
    "lora": ("lora",),
    "checkpoint": ("best",),
    "early_stop": ("early_stopping",),
}
"""Settings whose value is a call of one of these."""

WHOLE = ("batch", "accumulate", "epochs", "steps", "seed", "workers")
NUMBERS = ("clip", "ema")
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("32", "bf16-mixed", "16-mixed", "bf16-true"),
    "strategy": ("auto", "ddp", "fsdp"),
    "log": ("csv", "tensorboard"),
}
TEXTS = ("preset", "entry", "weights")
"""Settings that are a text of any kind."""
OTHERS = (
    "preset", "entry", "weights", "loss", "metrics", "val_every", "devices", "freeze", "fresh", "save_every",
    "compile",
)  # fmt: skip
SETTINGS = (*FUNCTIONS, *WHOLE, *NUMBERS, *CHOICES, *OTHERS)

FIELD_FUNCTIONS = ("column", "tokens", "pixels", "log_mel", "bpe", "flatten", "classes")
CLASS_METRICS = (
    "accuracy", "f1", "precision", "recall", "specificity", "auroc", "average_precision", "cohen_kappa", "matthews",
    "iou", "exact_match",
)  # fmt: skip
"""Predictions [.., C] against classes [..], or both of one shape for two classes."""
PAIR_METRICS = ("mean_squared_error", "mean_absolute_error", "r2", "cosine_similarity")
TEXT_METRICS = ("bleu", "rouge", "word_error_rate", "character_error_rate")
METRICS = (*CLASS_METRICS, *PAIR_METRICS, *TEXT_METRICS, "perplexity")
METRIC_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("accuracy", "f1", "precision", "recall", "specificity"), ("average", "top_k", "ignore_index")),
    **dict.fromkeys(("auroc", "average_precision", "iou"), ("average", "ignore_index")),
    **dict.fromkeys(("cohen_kappa", "matthews", "exact_match"), ("ignore_index",)),
    "bleu": ("n",),
}
"""What metrics take beside their tensors."""
# How a setting is called elsewhere: `learning_rate = 6e-4` is `optim = adamw(lr = 6e-4)`.
INSIDE = {
    "learning_rate": ("optim", "adamw(lr = {})"), "lr": ("optim", "adamw(lr = {})"),
    "weight_decay": ("optim", "adamw(lr = 1e-3, weight_decay = {})"),
    "betas": ("optim", "adamw(lr = 1e-3, betas = {})"),
    "warmup": ("sched", "cosine(warmup = {})"), "warmup_steps": ("sched", "cosine(warmup = {})"),
    "patience": ("early_stop", 'early_stopping("val_loss", patience = {})'),
    "dropout": ("preset", '"..", or a hyper-parameter of the model'),
}  # fmt: skip
ALIASES = {
    "optimizer": "optim", "optimiser": "optim", "scheduler": "sched", "lr_scheduler": "sched", "criterion": "loss",
    "loss_fn": "loss", "batch_size": "batch", "max_steps": "steps", "max_epochs": "epochs", "num_epochs": "epochs",
    "num_train_epochs": "epochs", "gradient_accumulation_steps": "accumulate", "accumulate_grad_batches": "accumulate",
    "gradient_clip_val": "clip", "max_grad_norm": "clip", "grad_clip": "clip", "dataset": "data", "train_data": "data",
    "validation": "val", "val_data": "val", "eval_every": "val_every", "amp": "precision", "gpus": "devices",
    "logger": "log", "frozen": "freeze", "early_stopping": "early_stop", "init_from": "weights", "config": "preset",
}  # fmt: skip

LOSSES = (
    "cross_entropy", "nll", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse", "l1", "huber", "kl_div",
    "ctc", "contrastive",
)  # fmt: skip

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sgd": ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "differentiable",
            "fused"),
    "adam": ("lr", "betas", "eps", "weight_decay", "amsgrad", "foreach", "maximize", "capturable", "differentiable",
             "fused", "decoupled_weight_decay"),
    "adamw": ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "differentiable",
              "fused"),
    "rmsprop": ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "capturable", "foreach", "maximize",
                "differentiable"),
    "adagrad": ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "foreach", "maximize",
                "differentiable", "fused"),
    "lion": ("lr", "betas", "weight_decay", "decoupled_weight_decay"),
    "adafactor": ("lr", "beta2_decay", "eps", "d", "weight_decay", "foreach", "maximize"),
    "muon": ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn",
             "adamw", "adamw_lr", "betas"),
    "constant": ("warmup",),
    "linear": ("warmup", "total", "min_lr"),
    "cosine": ("warmup", "total", "min_lr"),
    "step": ("step_size", "gamma", "warmup"),
    "noam": ("dim", "warmup"),
    "one_cycle": ("max_lr", "total"),
    "plateau": ("monitor", "mode", "factor", "patience", "min_lr"),
    "best": ("monitor", "mode", "keep", "every"),
    "early_stopping": ("monitor", "patience", "mode", "min_delta"),
    "tokens": ("count",),
    "split": ("part",),
}  # fmt: skip
"""What the functions of a section take, in order; the optimisers of torch what torch's take."""
WORDS = ("adjust_lr_fn", "adamw", "monitor", "mode")
"""Arguments of optimisers and schedules that are words, or patterns."""
FLAGS = (
    "amsgrad", "capturable", "centered", "decoupled_weight_decay", "differentiable", "foreach", "fused", "maximize",
    "nesterov",
)  # fmt: skip
"""Arguments of optimisers that are true or false."""
SEVERAL = {"betas": 2, "ns_coefficients": 3}
"""Arguments of optimisers that are so many numbers."""
OPTIMISER = ("no_decay", "groups")
"""What every optimiser takes beside its own arguments."""
REQUIRED = {"step": 1, "noam": 2, "one_cycle": 1, "best": 1, "early_stopping": 1, "tokens": 1, "split": 1}

NOT_FIELDS = frozenset({"tokenizer", "split", "length", "truncate", "pad", "name"})
"""Keyword arguments of data sources that name no field."""
TOKENIZED = ("input_ids", "attention_mask", "token_type_ids")
GIVEN_FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("input_ids",), "image_folder": ("image", "label"), "audio_folder": ("audio", "label"),
}  # fmt: skip
"""Fields that a source has without being told."""

"""The settings of `train` sections: what each takes, and what people call it elsewhere (LANGUAGE 16)."""

from __future__ import annotations

_SOURCES = ("csv", "parquet", "jsonl", "text", "hf_dataset", "image_folder", "audio_folder", "npz")

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

WHOLE = ("batch", "accumulate", "epochs", "steps", "seed")
NUMBERS = ("clip", "ema")
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("32", "bf16-mixed", "16-mixed", "bf16-true"),
    "strategy": ("auto", "ddp", "fsdp"),
    "log": ("csv", "tensorboard"),
}
OTHERS = ("preset", "entry", "weights", "loss", "metrics", "val_every", "devices", "freeze", "fresh")
SETTINGS = (*FUNCTIONS, *WHOLE, *NUMBERS, *CHOICES, *OTHERS)

FIELD_FUNCTIONS = ("column", "tokens", "pixels", "log_mel", "bpe", "flatten")
METRICS = (
    "accuracy", "f1", "precision", "recall", "auroc", "perplexity", "bleu", "rouge", "word_error_rate",
    "mean_squared_error",
)  # fmt: skip
OPAQUE = ("generate", "randint", "cosine_alpha_bar")
"""Functions of the training runtime whose results have no static type."""

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

CLASS_LOSSES = ("cross_entropy", "nll")  # logits [.., C] against Int [..]
EQUAL_LOSSES = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "mse", "l1", "huber", "kl_div")
LOSSES = (*CLASS_LOSSES, *EQUAL_LOSSES, "ctc", "contrastive")

NOT_FIELDS = frozenset({"tokenizer", "split", "length", "name"})
"""Keyword arguments of data sources that name no field."""
TOKENIZED = ("input_ids", "attention_mask", "token_type_ids")
GIVEN_FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("input_ids",), "image_folder": ("image", "label"), "audio_folder": ("audio", "label"),
}  # fmt: skip
"""Fields that a source has without being told."""

"""litgpt's Llama of a shape, in a Python of its own: a step for each line on stdin.

litgpt 0.5.13 wants huggingface-hub < 1.4, transformers 5.23 at least 1.31: the two cannot share an
environment. Nothing of cordel is imported here. The first line of the answer holds the number of
parameters, each further line what a step took.
"""

import json
import sys
import time
from typing import Any

import torch
from litgpt.config import Config  # pyright: ignore[reportMissingImports]  (not in our environment)
from litgpt.model import GPT  # pyright: ignore[reportMissingImports]

LEARNING_RATE, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0  # those of benchmarks/steps.py


def llama(case: dict[str, Any]) -> Any:
    """Return litgpt's model of this shape, with its own initialisation."""
    model = GPT(
        Config(
            block_size=case["context"],
            vocab_size=case["vocab_size"],
            padded_vocab_size=case["vocab_size"],
            n_layer=case["n_layer"],
            n_head=case["n_head"],
            n_embd=case["d_model"],
            intermediate_size=case["d_ff"],
            mlp_class_name="LLaMAMLP",
            norm_class_name="RMSNorm",
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
        )
    )
    model.apply(model._init_weights)  # as its own pretraining does
    if case["tied"]:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def answer(values: dict[str, float]) -> None:
    """Write a line."""
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stdout.flush()


def main() -> None:
    """Build the model, and take steps until stdin ends."""
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = llama(case)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY, fused=True
    )
    answer({"parameters": sum(p.numel() for p in model.parameters())})
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        rows = torch.randint(case["vocab_size"], (case["batch"], case["context"] + 1))
        logits_BTV = model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answer({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall})


if __name__ == "__main__":
    main()

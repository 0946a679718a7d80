"""Logits of adapter folders as Hugging Face PEFT loads them onto transformers' model, on the CPU in float32.

    python peft_logits.py MODEL TOKENS OUT ADAPTER...

TOKENS is a JSON list of token ids; OUT becomes a JSON list with one list per adapter: the logits, a row per token.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(model, tokens, out, *adapters):
    with open(tokens) as file:
        ids = torch.tensor([json.load(file)])
    found = []
    for adapter in adapters:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(base, adapter).eval()
        with torch.no_grad():
            logits = adapted(input_ids=ids, use_cache=False).logits
        # Soft tokens come first, and have logits of their own.
        found.append(logits[0, -ids.shape[1] :].double().tolist())
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""The training step of `train_bench` in PyTorch: mamba-130m's shape, random f32 weights, 4 sequences of 128 tokens.

Every peer runs in a process of its own and prints `METRIC:<name>:<value>:<unit>` lines; progress goes to standard
error. What is compared, and what differs, is in the README beside this file.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

NAME = "train/mamba-130m/4x128/state-offset-h"
PEERS = ("transformers", "mambapy")
SEQUENCES, LENGTH = 4, 128
STEPS, QUICK_STEPS = 3, 1  # after one that warms caches and buffers
KERNELS = ("mamba_ssm", "causal_conv1d")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def token(i: int) -> int:
    return i * 7919 % 50_000


def peak_mib() -> float | None:
    """Peak resident memory of this process, where the system tells it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def run(peer: str, steps: int) -> None:
    """Trains for a warm-up step and `steps` more, and prints the metrics. A peer that is missing says so instead."""
    if peer == "mambapy" and importlib.util.find_spec("mambapy") is None:
        progress("mambapy: left out, the package `mambapy` is not installed")
        return
    # PyTorch alone: neither installed kernels, which would fail without a GPU, nor any from the hub.
    for package in KERNELS:
        sys.modules[package] = None  # type: ignore[assignment]
    os.environ["HF_HUB_OFFLINE"] = "1"

    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    if peer == "mambapy" and not hasattr(transformers.MambaConfig(), "use_mambapy"):
        progress(f"mambapy: left out, transformers {transformers.__version__} has no option `use_mambapy`")
        return

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=50_280,
        hidden_size=768,
        num_hidden_layers=24,
        state_size=16,
        conv_kernel=4,
        expand=2,
        time_step_rank=48,
        tie_word_embeddings=True,
        use_mambapy=peer == "mambapy",
    )
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    progress(f"{peer}: {versions}, {torch.get_num_threads()} threads")
    model = transformers.MambaForCausalLM(config).float().train().requires_grad_(False)
    # One bias per layer stands in for the offset.
    trained = []
    for layer in model.backbone.layers:
        layer.mixer.out_proj.bias = torch.nn.Parameter(torch.zeros(config.hidden_size))
        trained.append(layer.mixer.out_proj.bias)
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    tokens = SEQUENCES * LENGTH
    inputs = torch.tensor([token(i) for i in range(tokens)]).view(SEQUENCES, LENGTH)
    targets = torch.tensor([token(i + 1) for i in range(tokens)])

    times = []
    for step in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(inputs, use_cache=False).logits
        loss = cross_entropy(logits.view(tokens, -1), targets)
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - start
        progress(f"{peer}: step {step} of {steps}: loss {loss.item():.4f}, {seconds:.3f} s")
        if step > 0:
            times.append(seconds)
    median = statistics.median(times)
    print(f"METRIC:{NAME}/{peer}/tokens_per_s:{tokens / median:.2f}:tokens/s")
    print(f"METRIC:{NAME}/{peer}/step_ms:{1000 * median:.1f}:ms")
    if (peak := peak_mib()) is not None:
        print(f"METRIC:{NAME}/{peer}/peak_mib:{peak:.0f}:MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"time {QUICK_STEPS} step instead of {STEPS}")
    parser.add_argument("--peer", choices=PEERS, help="run this one only, in this process")
    options = parser.parse_args()
    if options.peer:
        run(options.peer, QUICK_STEPS if options.quick else STEPS)
        return
    for peer in PEERS:
        command = [sys.executable, __file__, "--peer", peer] + ["--quick"] * options.quick
        code = subprocess.run(command).returncode
        if code != 0:
            sys.exit(f"train_peers: the peer `{peer}` failed (exit code {code})")


if __name__ == "__main__":
    main()

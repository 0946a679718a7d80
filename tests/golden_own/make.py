#!/usr/bin/env python3
"""Writes the golden cases of this folder: what every fine-tuning method computes, in float64.

Written from the definition of Mamba-1 (Gu and Dao 2023, arXiv 2312.00752) and from the methods' papers: plain loops
over time, automatic differentiation by PyTorch, nothing fused, nothing shared with the library under test.

    python3 make.py            writes every case
    python3 make.py --check    makes them again in memory and compares with the files
    python3 make.py CASE ...   only these cases

Letters: B rows, L tokens, V vocabulary, M hidden size, D inner size, N states, K convolution width, R rank of dt.
"""

import argparse
import hashlib
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
STANDARD = HERE.parent / "golden" / "base" / "mamba1_std"  # reference numbers of another origin, for the base model

V, M, D, N, K, R, LAYERS = 31, 12, 24, 5, 4, 3, 2
LENGTH, NEW_TOKENS, STEPS = 13, 8, 10
EPS = 1e-5
EMBED, HEAD = "backbone.embeddings.weight", "lm_head.weight"
IGNORED = -100
ADAMW = {"name": "AdamW", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "steps": STEPS}
TOLERANCE = {
    "logits": {"f32": {"abs": 1e-4}, "f64": {"abs": 1e-9}},
    "loss": {"f32": {"abs": 1e-5}, "f64": {"abs": 1e-9}},
    "gradient": {"f32": {"relative_to_tensor_max": 1e-4}, "f64": {"relative_to_tensor_max": 1e-8}},
    "adamw.losses": {"f32": {"abs": 1e-4}, "f64": {"abs": 1e-9}},
    "adamw.after10": {"f32": {"abs": 1e-3}, "f64": {"abs": 1e-8}},
    "token_ids": "equal",
}


# ---------------------------------------------------------------------------------------------------------------------
# Files and random numbers

TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def to_safetensors(tensors):
    """The bytes of a safetensors file, tensors in the order of their names."""
    header, data, names = {}, [], {np.dtype(kind): name for name, kind in TYPES.items()}
    offset = 0
    for name in sorted(tensors):
        # The shape is kept apart: ascontiguousarray makes a vector of a scalar.
        array, shape = np.ascontiguousarray(tensors[name]), list(np.shape(tensors[name]))
        header[name] = {"dtype": names[array.dtype], "shape": shape, "data_offsets": [offset, offset + array.nbytes]}
        data.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def from_safetensors(content):
    """The tensors of a safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


def to_json(value):
    return (json.dumps(value, indent=1) + "\n").encode()


def uniform(key, shape, low, high):
    """Uniform numbers that depend on the key only and are exact in single precision: SplitMix64, 24 bits of each."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float64) / 2.0**24
    return single(low + (high - low) * unit).reshape(shape)


def single(array):
    """Rounded to single precision, kept in double."""
    return np.asarray(array, np.float64).astype(np.float32).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# The base models


def mixer(layer):
    return f"backbone.layers.{layer}.mixer"


def base_weights(base):
    """A base model: stored name -> values. Where two of them have a tensor of the same name, it is the same."""
    ranges = {EMBED: ((V, M), -1.0, 1.0), "backbone.norm_f.weight": ((M,), 0.8, 1.8)}
    for layer in range(LAYERS):
        path = mixer(layer)
        ranges |= {
            f"backbone.layers.{layer}.norm.weight": ((M,), 0.5, 1.5),
            f"{path}.in_proj.weight": ((2 * D, M), -0.5, 0.5),
            f"{path}.conv1d.weight": ((D, 1, K), -0.6, 0.6),
            f"{path}.conv1d.bias": ((D,), -0.3, 0.3),
            f"{path}.x_proj.weight": ((R + 2 * N, D), -0.5, 0.5),
            f"{path}.dt_proj.weight": ((D, R), -0.6, 0.6),
            f"{path}.dt_proj.bias": ((D,), -2.0, 0.5),
            f"{path}.A_log": ((D, N), -1.5, 0.8),
            f"{path}.D": ((D,), 0.4, 1.4),
            f"{path}.out_proj.weight": ((M, D), -0.5, 0.5),
        }
        if base == "biased":
            ranges |= {f"{path}.in_proj.bias": ((2 * D,), -0.4, 0.4), f"{path}.out_proj.bias": ((M,), -0.3, 0.3)}
    if base == "untied":
        ranges[HEAD] = ((V, M), -1.0, 1.0)
    return {name: uniform(f"base.{name}", shape, low, high) for name, (shape, low, high) in ranges.items()}


def base_config(base):
    return {
        "architectures": ["MambaForCausalLM"],
        "bos_token_id": 0,
        "conv_kernel": K,
        "dtype": "float32",
        "eos_token_id": 0,
        "expand": D // M,
        "hidden_act": "silu",
        "hidden_size": M,
        "initializer_range": 0.1,
        "intermediate_size": D,
        "layer_norm_epsilon": EPS,
        "model_type": "mamba",
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "rescale_prenorm_residual": False,
        "residual_in_fp32": True,
        "state_size": N,
        "tie_word_embeddings": base != "untied",
        "time_step_floor": 0.0001,
        "time_step_init_scheme": "random",
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "time_step_rank": R,
        "time_step_scale": 1.0,
        "use_bias": base == "biased",
        "use_cache": True,
        "use_conv_bias": True,
        "vocab_size": V,
    }


# ---------------------------------------------------------------------------------------------------------------------
# The model


class Model:
    """A base model and what methods bring to it. Weights are replaced by changed ones; the rest is absent until set."""

    def __init__(self, weights, held=None):
        self.weights = dict(weights)
        self.weights.setdefault(HEAD, self.weights[EMBED])  # tied
        self.layers = sum(name.endswith(".A_log") for name in weights)
        self.biases = {}  # module -> added bias [out]
        self.prompt = None  # [k, M]
        self.conv_initial = {}  # layer -> [D, K-1], oldest first
        self.initial = {}  # layer -> [D, N]
        self.state_offset = {}  # layer -> [D, N]
        self.output_offset = {}  # layer -> [D]
        self.transforms = {}  # layer -> {scale, bias, scale_C, bias_C}, each [N, D]
        self.previous = {}  # layer -> [N, D]
        self.extra = {}  # layer -> (A_log [D, k], B [k, D], C [k, D])
        self.prefix = {}  # layer -> [k, D]
        self.affix = {}  # layer -> [k, M]
        self.held = held  # constants of an earlier evaluation, or None

    def constant(self, key, value):
        """A number that the gradient does not pass: held fixed where finite differences are taken."""
        if self.held is None:
            return value.detach()
        return self.held.setdefault(key, value.detach())

    def linear(self, module, x):
        y = x @ self.weights[f"{module}.weight"].T
        bias = self.weights.get(f"{module}.bias")
        y = y if bias is None else y + bias
        added = self.biases.get(module)
        return y if added is None else y + added

    def logits(self, ids):
        """ids [B, L] -> [B, L, V], the real positions only."""
        x = self.weights[EMBED][ids]
        rows, front = ids.shape[0], 0
        if self.prompt is not None:
            front = self.prompt.shape[0]
            x = torch.cat([self.prompt.expand(rows, -1, -1), x], 1)
        for layer in range(self.layers):
            x = x + self.mix(layer, rms_norm(x, self.weights[f"backbone.layers.{layer}.norm.weight"]))
        return (rms_norm(x, self.weights["backbone.norm_f.weight"]) @ self.weights[HEAD].T)[:, front:]

    def mix(self, layer, normed):
        """One mixer, [B, L, M] -> [B, L, M]. A layer's own virtual inputs run first; their outputs are dropped."""
        path, rows = mixer(layer), normed.shape[0]
        inner = self.weights[f"{path}.A_log"].shape[0]
        x, z = self.linear(f"{path}.in_proj", normed).split(inner, -1)
        front = []
        if layer in self.affix:
            front.append(self.linear(f"{path}.in_proj", self.affix[layer])[:, :inner])
        if layer in self.prefix:
            front.append(self.prefix[layer])
        virtual = sum(part.shape[0] for part in front)
        x = torch.cat([part.expand(rows, -1, -1) for part in front] + [x], 1)

        # Causal depthwise convolution; before the first input there are zeros or what is trained.
        kernel = self.weights[f"{path}.conv1d.weight"][:, 0]
        width = kernel.shape[1]
        left = self.conv_initial[layer].T if layer in self.conv_initial else x.new_zeros(width - 1, inner)
        padded = torch.cat([left.expand(rows, -1, -1), x], 1)
        u = self.weights[f"{path}.conv1d.bias"]
        u = u + sum(padded[:, j : j + x.shape[1]] * kernel[:, j] for j in range(width))
        u = u * torch.sigmoid(u)

        states = self.weights[f"{path}.A_log"].shape[1]
        rank = self.weights[f"{path}.dt_proj.weight"].shape[1]
        dt, b, c = self.linear(f"{path}.x_proj", u).split([rank, states, states], -1)
        delta = self.linear(f"{path}.dt_proj", dt)
        delta = torch.logaddexp(delta, torch.zeros_like(delta))  # softplus
        a_log, more = self.weights[f"{path}.A_log"], 0
        if layer in self.extra:
            extra_a, extra_b, extra_c = self.extra[layer]
            more = extra_a.shape[1]
            a_log = torch.cat([a_log, extra_a], 1)
            b, c = torch.cat([b, u @ extra_b.T], -1), torch.cat([c, u @ extra_c.T], -1)
        a = -torch.exp(a_log)

        def widened(value, fill):  # [D, N] to [D, N + more]
            return torch.cat([value, value.new_full((inner, more), fill)], 1)

        h = u.new_zeros(rows, inner, states + more)
        if layer in self.initial:
            h = h + widened(self.initial[layer], 0.0)
        transform = {name: widened(value.T, 1.0 if "scale" in name else 0.0)
                     for name, value in self.transforms.get(layer, {}).items()}
        scale, bias = transform.get("scale", 1.0), transform.get("bias", 0.0)
        scale_c, bias_c = transform.get("scale_C", 1.0), transform.get("bias_C", 0.0)
        outputs = []
        for t in range(x.shape[1]):
            before = h
            h = torch.exp(delta[:, t, :, None] * a) * h + (delta[:, t] * u[:, t])[:, :, None] * b[:, t, None, :]
            if t < virtual:
                continue
            y = ((scale * h + bias) * (scale_c * c[:, t, None, :] + bias_c)).sum(-1)
            if layer in self.state_offset:
                y = y + (self.state_offset[layer] * c[:, t, None, :states]).sum(-1)
            if layer in self.output_offset:
                y = y + self.output_offset[layer]
            if layer in self.previous:
                map_c = u[:, t] @ self.previous[layer].T  # [B, N]
                y = y + (before[:, :, :states] * map_c[:, None, :]).sum(-1)
            outputs.append(y + self.weights[f"{path}.D"] * u[:, t])
        y = torch.stack(outputs, 1)
        return self.linear(f"{path}.out_proj", y * (z * torch.sigmoid(z)))


def rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def mean_loss(logits, targets):
    """Mean cross entropy over the targets that are not ignored."""
    chosen = targets != IGNORED
    rows = torch.log_softmax(logits[chosen], -1)
    return -rows[torch.arange(len(rows)), targets[chosen]].mean()


# ---------------------------------------------------------------------------------------------------------------------
# The methods. Each lists its tensors, as (name, start value, how far the case moves it, trained), and applies them.


def linear_sites(weights, target):
    """The sites of a target: (name, stored tensor, first row, rows, columns)."""
    sites = []
    if target == "embeddings":
        sites.append(("backbone.embeddings", EMBED, 0, *weights[EMBED].shape))
    elif target == "lm_head":
        sites.append(("lm_head", HEAD, 0, *weights[EMBED].shape))
    else:
        module, _, part = target.partition(".")
        for layer in range(LAYERS):
            name = f"{mixer(layer)}.{module}.weight"
            rows, columns = weights[name].shape
            parts = {"in_proj": {"x": (0, D), "z": (D, D)}, "x_proj": {"dt": (0, R), "b": (R, N), "c": (R + N, N)}}
            first, count = parts[module][part] if part else (0, rows)
            sites.append((f"{mixer(layer)}.{target}", name, first, count, columns))
    return sites


def all_sites(weights, options):
    return [site for target in options["targets"] for site in linear_sites(weights, target)]


def padded_rows(change, first, total):
    """A change of some rows as a change of the whole matrix."""
    above = change.new_zeros(first, change.shape[1])
    below = change.new_zeros(total - first - change.shape[0], change.shape[1])
    return torch.cat([above, change, below], 0)


class LowRank:
    """LoRA, LoRA+ and LoRA-FA differ in how they are trained; PiSSA and OLoRA in their start, which is taken off."""

    def __init__(self, freeze_a=False, start=None):
        self.freeze_a, self.start = freeze_a, start

    @staticmethod
    def scale(options):
        rank = options["rank"]
        return options["alpha"] / (math.sqrt(rank) if options.get("rslora") else rank)

    def tensors(self, options, weights):
        rank = options["rank"]
        for site, stored, first, rows, columns in all_sites(weights, options):
            if self.start is None:
                yield f"{site}.lora_A", np.zeros((rank, columns)), 0.5, not self.freeze_a
                yield f"{site}.lora_B", np.zeros((rows, rank)), 0.25, True
                continue
            part = weights[stored][first : first + rows]
            b, a = self.start(part, rank, self.scale(options))
            yield f"{site}.lora_A", a, 0.1, True
            yield f"{site}.lora_B", b, 0.1, True
            yield f"{site}.lora_A0", a, 0.0, False
            yield f"{site}.lora_B0", b, 0.0, False

    def apply(self, options, model, t):
        for site, stored, first, _, _ in all_sites(model.weights, options):
            change = t[f"{site}.lora_B"] @ t[f"{site}.lora_A"]
            if self.start is not None:
                change = change - t[f"{site}.lora_B0"] @ t[f"{site}.lora_A0"]
            self.add(model, stored, first, self.scale(options) * change)

    @staticmethod
    def add(model, stored, first, change):
        """Adds to rows of a matrix. Tied embeddings change at both ends; `lm_head` is the output end alone."""
        ends = [stored]
        if stored == EMBED and model.weights[HEAD] is model.weights[EMBED]:
            ends.append(HEAD)
        value = model.weights[stored]
        value = value + padded_rows(change, first, value.shape[0])
        for end in ends:
            model.weights[end] = value


def pissa_start(weight, rank, scale):
    """W = U S Vᵀ; s B0 A0 = U_r S_r V_rᵀ, the root of S_r / s on each side."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(s[:rank] / scale)
    b, a = u[:, :rank] * root, root[:, None] * vt[:rank]
    # Nothing of rank r is nearer to W: what is left has the remaining singular values.
    left = np.linalg.svd(weight - scale * b @ a, compute_uv=False)
    assert np.allclose(left[: len(s) - rank], s[rank:]), "pissa's start"
    return b, a


def olora_start(weight, rank, scale):
    """W = Q R; s B0 A0 = Q_r R_r."""
    q, r = np.linalg.qr(weight)
    assert np.allclose(q @ r, weight) and np.allclose(np.tril(r, -1), 0.0), "olora's start"
    return q[:, :rank], r[:rank] / scale


class Dora(LowRank):
    """W'' = m ∘ (W + s B A) / ‖W + s B A‖, norms of rows (of the embedding: of columns), constants in backward."""

    def tensors(self, options, weights):
        yield from super().tensors(options, weights)
        for site, stored, first, rows, _ in all_sites(weights, options):
            part = weights.get(stored, weights[EMBED])[first : first + rows]
            norms = np.linalg.norm(part, axis=0 if stored == EMBED else 1)
            yield f"{site}.lora_magnitude", norms, 0.3, True

    def apply(self, options, model, t):
        tied = model.weights[HEAD] is model.weights[EMBED]
        for site, stored, first, rows, _ in all_sites(model.weights, options):
            whole = model.weights[stored]
            part = whole[first : first + rows]
            part = part + self.scale(options) * t[f"{site}.lora_B"] @ t[f"{site}.lora_A"]
            columns = stored == EMBED
            norm = model.constant(site, torch.sqrt((part * part).sum(0 if columns else 1)))
            ratio = t[f"{site}.lora_magnitude"] / norm
            part = part * ratio if columns else part * ratio[:, None]
            whole = torch.cat([whole[:first], part, whole[first + rows :]], 0)
            for end in [stored, HEAD] if columns and tied else [stored]:
                model.weights[end] = whole


class Vera:
    """ΔW = diag(λ_b) B diag(λ_d) A; A and B are fixed and shared by all sites of the same shape."""

    def tensors(self, options, weights):
        for site, _, _, rows, _ in all_sites(weights, options):
            yield f"{site}.vera_lambda_d", np.full(options["rank"], options["d_initial"]), 0.3, True
            yield f"{site}.vera_lambda_b", np.zeros(rows), 0.3, True

    @staticmethod
    def names(options, rows, columns):
        rank, seed = options["rank"], options["projection_seed"]
        return f"vera_A.{rank}x{columns}.seed{seed}", f"vera_B.{rows}x{rank}.seed{seed}"

    def projections(self, options, weights):
        rank = options["rank"]
        for _, _, _, rows, columns in all_sites(weights, options):
            a, b = self.names(options, rows, columns)
            yield a, (rank, columns), math.sqrt(6 / columns)
            yield b, (rows, rank), math.sqrt(6 / rank)

    def apply(self, options, model, t):
        for site, stored, first, rows, columns in all_sites(model.weights, options):
            a, b = (t[name] for name in self.names(options, rows, columns))
            change = (t[f"{site}.vera_lambda_b"][:, None] * b) @ (t[f"{site}.vera_lambda_d"][:, None] * a)
            LowRank.add(model, stored, first, change)


class ConvLora:
    """ΔW = s B A on the convolution's weight [D, 1, K]."""

    def tensors(self, options, weights):
        for layer in range(LAYERS):
            yield f"{mixer(layer)}.conv1d.lora_A", np.zeros((options["rank"], K)), 0.5, True
            yield f"{mixer(layer)}.conv1d.lora_B", np.zeros((D, options["rank"])), 0.3, True

    def apply(self, options, model, t):
        for layer in range(LAYERS):
            path = f"{mixer(layer)}.conv1d"
            change = LowRank.scale(options) * t[f"{path}.lora_B"] @ t[f"{path}.lora_A"]
            model.weights[f"{path}.weight"] = model.weights[f"{path}.weight"] + change[:, None, :]


class Stored:
    """Stored tensors themselves are trained: those that `chosen` names."""

    def __init__(self, chosen):
        self.chosen = chosen

    def names(self, options, weights):
        return [name for name in weights if self.chosen(options, name)]

    def tensors(self, options, weights):
        for name in self.names(options, weights):
            yield name, weights[name], 0.1, True

    def apply(self, options, model, t):
        tied = model.weights[HEAD] is model.weights[EMBED]
        for name in model.weights:
            if name in t:
                model.weights[name] = t[name]
        if tied:
            model.weights[HEAD] = model.weights[EMBED]


class Bitfit(Stored):
    """Stored biases of the target modules, and new ones, zero at the start, where a module has none."""

    def __init__(self):
        super().__init__(lambda options, name: any(name.endswith(f".{m}.bias") for m in options["targets"]))

    def missing(self, options, weights):
        for target in options["targets"]:
            for layer in range(LAYERS):
                module = f"{mixer(layer)}.{target}"
                if f"{module}.bias" not in weights:
                    yield module, weights[f"{module}.weight"].shape[0]

    def tensors(self, options, weights):
        yield from super().tensors(options, weights)
        for module, out in self.missing(options, weights):
            yield f"{module}.bias_added", np.zeros(out), 0.2, True

    def apply(self, options, model, t):
        for module, _ in self.missing(options, model.weights):
            model.biases[module] = t[f"{module}.bias_added"]
        super().apply(options, model, t)


class Sdt:
    """Chosen entries of A_log and chosen columns of x_proj.b and x_proj.c; all entries of A_log of the channels set to
    zero, which a constant takes to a number where the decay leaves no memory."""

    # The library's number is 10, and then no entry matters any more. At 1 one in a wrong place would be seen.
    NO_MEMORY = 1.0

    def tensors(self, options, weights):
        for layer, chosen in enumerate(options["selection"]):
            path, columns = mixer(layer), len(chosen["channels"])
            yield f"{path}.A_log.sdt", np.zeros(sum(map(len, chosen["states"]))), 0.5, True
            yield f"{path}.x_proj.b.sdt", np.zeros((N, columns)), 0.3, True
            yield f"{path}.x_proj.c.sdt", np.zeros((N, columns)), 0.3, True
            if chosen["zero"]:
                start = self.NO_MEMORY - weights[f"{path}.A_log"][chosen["zero"]]
                yield f"{path}.A_log.sdt_zero", start.reshape(-1), 0.0, False

    def apply(self, options, model, t):
        for layer, chosen in enumerate(options["selection"]):
            path = mixer(layer)
            # Values fill the mask in row-major order of [N, D], the state-major view.
            entries = [(n, d) for d, states in zip(chosen["channels"], chosen["states"]) for n in states]
            a_log = model.weights[f"{path}.A_log"].clone()
            for at, (n, d) in enumerate(sorted(entries)):
                a_log[d, n] = a_log[d, n] + t[f"{path}.A_log.sdt"][at]
            # The constants go channel by channel.
            for at, d in enumerate(chosen["zero"]):
                a_log[d] = a_log[d] + t[f"{path}.A_log.sdt_zero"][at * N : (at + 1) * N]
            x_proj = model.weights[f"{path}.x_proj.weight"].clone()
            for first, part in [(R, "b"), (R + N, "c")]:
                for at, d in enumerate(chosen["channels"]):
                    x_proj[first : first + N, d] = x_proj[first : first + N, d] + t[f"{path}.x_proj.{part}.sdt"][:, at]
            model.weights[f"{path}.A_log"], model.weights[f"{path}.x_proj.weight"] = a_log, x_proj


# Chosen by hand, per layer: trained channels (ascending), their trained states, channels set to zero.
SELECTION = [
    {"channels": [2, 3, 11, 17, 20, 23],
     "states": [[0, 1, 4], [1, 2, 3], [0, 2, 4], [0, 1, 2], [2, 3, 4], [0, 3, 4]], "zero": []},
    {"channels": [0, 5, 6, 9, 14, 21],
     "states": [[1, 2, 4], [0, 1, 2], [0, 1, 3], [2, 3, 4], [0, 2, 4], [1, 3, 4]], "zero": []},
]
ZEROS = [[0, 9, 19], [4, 13, 22]]


class Tokens:
    """Trained inputs, plain or as the output of tanh(E W1ᵀ + b1) W2ᵀ + b2."""

    def __init__(self, name, width, field, per_layer=True):
        self.name, self.width, self.field, self.per_layer = name, width, field, per_layer

    def paths(self):
        if not self.per_layer:
            return [(None, self.name)]
        return [(layer, f"{mixer(layer)}.{self.name}") for layer in range(LAYERS)]

    def tensors(self, options, weights):
        tokens, hidden, width = options["tokens"], options.get("mlp"), self.width
        for _, name in self.paths():
            if hidden is None:
                yield name, np.zeros((tokens, width)), 0.8, True
                continue
            yield f"{name}.input", np.zeros((tokens, width)), 0.8, True
            yield f"{name}.w1", np.zeros((hidden, width)), 0.5, True
            yield f"{name}.b1", np.zeros(hidden), 0.2, True
            yield f"{name}.w2", np.zeros((width, hidden)), 0.6, True
            yield f"{name}.b2", np.zeros(width), 0.2, True

    def apply(self, options, model, t):
        for layer, name in self.paths():
            if options.get("mlp") is None:
                value = t[name]
            else:
                inner = torch.tanh(t[f"{name}.input"] @ t[f"{name}.w1"].T + t[f"{name}.b1"])
                value = inner @ t[f"{name}.w2"].T + t[f"{name}.b2"]
            if layer is None:
                setattr(model, self.field, value)
            else:
                getattr(model, self.field)[layer] = value


class Operand:
    """One tensor per layer that is an operand of the convolution or the scan."""

    def __init__(self, name, field, shape):
        self.name, self.field, self.shape = name, field, shape

    def tensors(self, options, weights):
        for layer in range(LAYERS):
            yield f"{mixer(layer)}.{self.name}", np.zeros(self.shape), 0.5, True

    def apply(self, options, model, t):
        for layer in range(LAYERS):
            getattr(model, self.field)[layer] = t[f"{mixer(layer)}.{self.name}"]


class StateToOutput:
    """Reads (s ∘ h + b) with (s_C ∘ C + b_C)."""

    PARTS = (("scale", 1.0), ("bias", 0.0), ("scale_C", 1.0), ("bias_C", 0.0))

    def tensors(self, options, weights):
        for layer in range(LAYERS):
            for part, start in self.PARTS:
                if options.get(part, True):
                    yield f"{mixer(layer)}.state_to_output.{part}", np.full((N, D), start), 0.4, True

    def apply(self, options, model, t):
        for layer in range(LAYERS):
            path = f"{mixer(layer)}.state_to_output"
            model.transforms[layer] = {part: t[f"{path}.{part}"] for part, _ in self.PARTS if f"{path}.{part}" in t}


class AdditionalScan:
    """k more states per channel."""

    def tensors(self, options, weights):
        k = options["states"]
        for layer in range(LAYERS):
            path = f"{mixer(layer)}.additional_scan"
            yield f"{path}.A_log", np.repeat(weights[f"{mixer(layer)}.A_log"][:, -1:], k, 1), 0.3, True
            yield f"{path}.B", np.zeros((k, D)), 0.3, True
            yield f"{path}.C", np.zeros((k, D)), 0.3, True

    def apply(self, options, model, t):
        for layer in range(LAYERS):
            path = f"{mixer(layer)}.additional_scan"
            model.extra[layer] = tuple(t[f"{path}.{part}"] for part in ("A_log", "B", "C"))


def trailing(name, pattern):
    return name == pattern or name.endswith(f".{pattern}")


METHODS = {
    "lora": LowRank(),
    "lora-plus": LowRank(),
    "lora-fa": LowRank(freeze_a=True),
    "pissa": LowRank(start=pissa_start),
    "olora": LowRank(start=olora_start),
    "dora": Dora(),
    "vera": Vera(),
    "conv-lora": ConvLora(),
    "bitfit": Bitfit(),
    "partial": Stored(lambda options, name: any(trailing(name, p) for p in options["parameters"])),
    "full": Stored(lambda options, name: True),
    "sdt": Sdt(),
    "prompt-tuning": Tokens("prompt_tokens", M, "prompt", per_layer=False),
    "prefix-tuning": Tokens("prefix", D, "prefix"),
    "affix-tuning": Tokens("affix", M, "affix"),
    "initial-state": Operand("initial_state", "initial", (D, N)),
    "conv-initial-state": Operand("conv_initial_state", "conv_initial", (D, K - 1)),
    "previous-state": Operand("previous_state", "previous", (N, D)),
    "state-offset-h": Operand("state_offset_h", "state_offset", (D, N)),
    "state-offset-y": Operand("state_offset_y", "output_offset", (D,)),
    "state-to-output": StateToOutput(),
    "additional-scan": AdditionalScan(),
}


# ---------------------------------------------------------------------------------------------------------------------
# The cases: the methods as the library's configuration writes them; on which base; how long the prompts are.


def low_rank(method, targets, rank=2, alpha=3, **more):
    return {"method": method, "targets": targets, "rank": rank, "alpha": alpha, **more}


CASES = {
    "conv_lora": [{"method": "conv-lora", "rank": 2, "alpha": 3}],
    "vera": [{
        "method": "vera", "targets": ["in_proj.x", "in_proj.z", "x_proj", "out_proj"], "rank": 4, "d_initial": 0.1,
        "projection_seed": 0}],
    "lora_fa": [low_rank("lora-fa", ["x_proj", "out_proj"])],
    "lora_plus": [low_rank("lora-plus", ["in_proj", "x_proj.dt"], ratio=4)],
    "pissa": [low_rank("pissa", ["in_proj.x", "out_proj"])],
    "olora": [low_rank("olora", ["in_proj.z", "x_proj"], rslora=True)],
    "bitfit": [{"method": "bitfit", "targets": ["conv1d", "dt_proj"]}],
    "bitfit_new_biases": [{"method": "bitfit", "targets": ["in_proj", "x_proj", "out_proj"], "add_missing": True}],
    "biased_bitfit": [{"method": "bitfit", "targets": ["in_proj", "x_proj", "out_proj"], "add_missing": True}],
    "biased_dora_affix": [
        low_rank("dora", ["in_proj.x", "dt_proj", "out_proj"]), {"method": "affix-tuning", "tokens": 3}],
    "partial": [{"method": "partial", "parameters": ["A_log", "D", "conv1d.weight", "norm.weight"]}],
    "full": [{"method": "full"}],
    "full_untied": [{"method": "full"}],
    "sdt": [{"method": "sdt", "channels": 0.75, "states": 0.4, "selection": SELECTION}],
    "sdt_zero_channels": [{
        "method": "sdt", "channels": 0.625, "states": 0.4, "zero_channels": 0.125,
        "selection": [chosen | {"zero": zeros} for chosen, zeros in zip(SELECTION, ZEROS)]}],
    "prompt_mlp": [{"method": "prompt-tuning", "tokens": 3, "mlp": 7}],
    "prefix": [{"method": "prefix-tuning", "tokens": 2}],
    "prefix_mlp": [{"method": "prefix-tuning", "tokens": 4, "mlp": 6}],
    "affix": [{"method": "affix-tuning", "tokens": 2}],
    "affix_mlp": [{"method": "affix-tuning", "tokens": 4, "mlp": 7}],
    "affix_and_lora": [{"method": "affix-tuning", "tokens": 3}, low_rank("lora", ["in_proj", "in_proj.x", "x_proj"])],
    "dora_row_ranges": [low_rank("dora", ["in_proj.x", "x_proj.dt", "dt_proj", "out_proj"])],
    "dora_beside_others": [  # applied in this order: what others add is outside DoRA's norm
        low_rank("dora", ["in_proj.x", "x_proj.b"]), low_rank("lora", ["in_proj", "x_proj"]),
        {"method": "bitfit", "targets": ["in_proj", "x_proj", "dt_proj"], "add_missing": True}],
    "dora_untied_head": [low_rank("dora", ["lm_head"])],
    "dora_tied_embeddings": [low_rank("dora", ["embeddings"])],
    "dora_tied_head": [low_rank("dora", ["lm_head"])],
    "lora_tied_head": [low_rank("lora", ["lm_head"])],
    "lora_tied_embeddings": [low_rank("lora", ["embeddings"])],
    "operands_together": [
        {"method": "state-to-output"}, {"method": "state-offset-h"}, {"method": "state-offset-y"},
        {"method": "previous-state"}],
    "additional_scan_operands": [
        {"method": "state-to-output"}, {"method": "previous-state"}, {"method": "additional-scan", "states": 3}],
    "additional_scan_states": [
        {"method": "state-offset-h"}, {"method": "initial-state"}, {"method": "additional-scan", "states": 2},
        {"method": "previous-state"}],
    "start_states_prefix": [
        {"method": "initial-state"}, {"method": "conv-initial-state"}, {"method": "prefix-tuning", "tokens": 2}],
    "start_everything": [
        {"method": "initial-state"}, {"method": "conv-initial-state"}, {"method": "affix-tuning", "tokens": 2},
        {"method": "prompt-tuning", "tokens": 3}, {"method": "previous-state"},
        {"method": "additional-scan", "states": 2}],
}
BASES = {
    "full_untied": "untied", "dora_untied_head": "untied", "biased_bitfit": "biased", "biased_dora_affix": "biased"}
SHORT_PROMPTS = {"start_states_prefix", "conv_lora", "affix"}


class Case:
    """A case: its values, and everything that is computed from them, at one precision."""

    def __init__(self, name, dtype):
        self.name, self.methods, self.dtype = name, CASES[name], dtype
        self.base = BASES.get(name, "tied")
        weights = base_weights(self.base)
        self.weights = {key: self.tensor(value) for key, value in weights.items()}
        self.values, self.trained, self.projections = {}, [], {}
        for options in self.methods:
            method = METHODS[options["method"]]
            for key, start, spread, trained in method.tensors(options, weights):
                moved = single(start + uniform(f"{name}.{key}", np.shape(start), -spread, spread))
                assert key not in self.values, f"two tensors {key}"
                self.values[key] = moved
                if trained:
                    self.trained.append(key)
            for key, shape, bound in getattr(method, "projections", lambda *_: [])(options, weights):
                self.projections[key] = uniform(f"{name}.{key}", shape, -bound, bound)
        self.rates = {key: ADAMW["lr"] for key in self.trained}
        for options in self.methods:
            for key in self.trained:
                if options["method"] == "lora-plus" and key.endswith("lora_B"):
                    self.rates[key] *= options["ratio"]
        ids = uniform(f"{name}.ids", (2, LENGTH + 1), 0.0, V).astype(np.int64)
        self.ids = torch.tensor(ids[:, :-1])
        self.targets = torch.tensor(ids[:, 1:])
        self.targets[0, :4] = IGNORED
        self.targets[:, -1] = IGNORED
        length = 2 if name in SHORT_PROMPTS else 3
        self.prompt = torch.tensor(uniform(f"{name}.prompt", (2, length), 0.0, V).astype(np.int64))

    def tensor(self, value):
        return torch.tensor(np.asarray(value), dtype=self.dtype)

    def start(self):
        """Fresh tensors, the trained ones tracked."""
        tensors = {key: self.tensor(value) for key, value in (self.values | self.projections).items()}
        for key in self.trained:
            tensors[key].requires_grad_()
        return tensors

    def model(self, tensors, held=None):
        model = Model(self.weights, held)
        for options in self.methods:
            METHODS[options["method"]].apply(options, model, tensors)
        return model

    def loss(self, tensors, held=None):
        return mean_loss(self.model(tensors, held).logits(self.ids), self.targets)

    def compute(self):
        """Logits, loss, gradients, ten steps, decoding."""
        tensors = self.start()
        logits = self.model(tensors).logits(self.ids)
        loss = mean_loss(logits, self.targets)
        gradients = torch.autograd.grad(loss, [tensors[key] for key in self.trained])
        result = {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
        result |= {f"grad.{key}": gradient.numpy() for key, gradient in zip(self.trained, gradients)}
        for key, gradient in zip(self.trained, gradients):
            assert gradient.abs().max() > 1e-6, f"{self.name}: no gradient of {key}"

        groups = [{"params": [tensors[key]], "lr": self.rates[key]} for key in self.trained]
        settings = {"betas": tuple(ADAMW["betas"]), "eps": ADAMW["eps"], "weight_decay": ADAMW["weight_decay"]}
        optimizer = torch.optim.AdamW(groups, **settings, foreach=False)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = self.loss(tensors)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
        losses.append(self.loss(tensors).item())
        result["adamw.losses"] = np.array(losses)
        result |= {f"adamw.after10.{key}": tensors[key].detach().numpy() for key in self.trained}
        return result

    def decode(self):
        """Greedy tokens, every one from the whole sequence; and the smallest lead of a best logit."""
        tokens, lead = self.prompt, math.inf
        with torch.no_grad():
            model = self.model(self.start())
            for _ in range(NEW_TOKENS):
                best = model.logits(tokens)[:, -1].topk(2)
                lead = min(lead, (best.values[:, 0] - best.values[:, 1]).min().item())
                tokens = torch.cat([tokens, best.indices[:, :1]], 1)
        return tokens, lead

    def effect(self):
        """The largest change of a logit against the base model."""
        with torch.no_grad():
            base = Model(self.weights).logits(self.ids)
            return (self.model(self.start()).logits(self.ids) - base).abs().max().item()

    def check_gradients(self, result):
        """Central differences at three entries of every trained tensor; the largest error relative to the tensor."""
        tensors, held, worst, step = self.start(), {}, 0.0, 1e-5
        with torch.no_grad():
            self.loss(tensors, held)
            for key in self.trained:
                flat, gradient = tensors[key].view(-1), result[f"grad.{key}"].reshape(-1)
                picks = uniform(f"{self.name}.{key}.picks", (2,), 0.0, flat.numel()).astype(int)
                for at in [*picks, int(np.abs(gradient).argmax())]:
                    middle, ends = flat[at].item(), []
                    for sign in (1, -1):
                        flat[at] = middle + sign * step
                        ends.append(self.loss(tensors, held).item())
                    flat[at] = middle
                    error = abs((ends[0] - ends[1]) / (2 * step) - gradient[at]) / np.abs(gradient).max()
                    worst = max(worst, error)
                    assert error < 1e-6, f"{self.name}: {key}[{at}]: error {error} of the gradient"
        return worst


def make_case(name):
    """The files of a case, and a line that says how well conditioned it is."""
    case = Case(name, torch.float64)
    result = case.compute()
    error = case.check_gradients(result)
    tokens, lead = case.decode()
    effect = case.effect()
    again = Case(name, torch.float32)
    rounded = again.compute()
    assert again.decode()[0].equal(tokens), f"{name}: single precision decodes other tokens"

    # A case whose numbers single precision cannot reach says nothing about an implementation.
    shares = {}
    for key, value in result.items():
        kind = "gradient" if key.startswith("grad.") else "adamw.after10" if key.startswith("adamw.after") else key
        allowed = next(iter(TOLERANCE[kind]["f32"].values()))
        allowed *= np.abs(value).max() if kind == "gradient" else 1.0
        share = np.abs(value - rounded[key]).max() / allowed
        assert share < 0.5, f"{name}: {key} in single precision is at {100 * share:.0f} % of the tolerance"
        shares[kind] = max(shares.get(kind, 0.0), share)
    assert lead > 1e-3, f"{name}: a decoded token leads by {lead}"
    assert effect > 0.05, f"{name}: the adapter changes logits by {effect} only"

    tensors = {f"adapter.{key}": value for key, value in case.values.items()}
    tensors |= {f"projection.{key}": value for key, value in case.projections.items()}
    tensors |= {"input_ids": case.ids.numpy(), "targets": case.targets.numpy()}
    tensors |= {"gen.prompt": case.prompt.numpy(), "gen.tokens": tokens.numpy()}
    own = {
        "base_model": f"../base_{case.base}",
        "methods": case.methods,
        "optimizer": ADAMW,
        "trainable_parameters": sum(case.values[key].size for key in case.trained),
        "tolerance": TOLERANCE,
    }
    line = f"{own['trainable_parameters']:5} trained, differences {error:.0e}, effect {effect:5.2f}, lead {lead:.3f}, "
    line += "single precision in percent of the tolerance: "
    line += ", ".join(f"{kind} {100 * share:.0f}" for kind, share in shares.items())
    return {f"{name}/own.json": to_json(own), f"{name}/io.safetensors": to_safetensors(tensors | result)}, line


def make_bases():
    files = {}
    for base in ("tied", "untied", "biased"):
        folder = f"base_{base}"
        weights = {name: value.astype(np.float32) for name, value in base_weights(base).items()}
        files[f"{folder}/config.json"] = to_json(base_config(base))
        files[f"{folder}/model.safetensors"] = to_safetensors(weights)
    return files


def check_base():
    """The model above, without a method, against reference numbers made with Hugging Face transformers."""
    read = lambda name: {k: torch.tensor(v) for k, v in from_safetensors((STANDARD / name).read_bytes()).items()}
    weights = {key: value.double().requires_grad_() for key, value in read("model.safetensors").items()}
    io, expected = read("io.safetensors"), read("io_f64.safetensors")
    worst = [0.0, 0.0, 0.0]
    for length in ("L1", "L5", "L37"):
        logits = Model(weights).logits(io[f"{length}.input_ids"])
        worst[0] = max(worst[0], (logits - expected[f"{length}.logits"]).abs().max().item())
        if (io[f"{length}.targets"] == IGNORED).all():
            continue
        loss = mean_loss(logits, io[f"{length}.targets"])
        worst[1] = max(worst[1], (loss - expected[f"{length}.loss"]).abs().item())
        names = [name for name in weights if f"{length}.grad.{name}" in expected]
        gradients = torch.autograd.grad(loss, [weights[name] for name in names]) if names else []
        for name, gradient in zip(names, gradients):
            golden = expected[f"{length}.grad.{name}"]
            worst[2] = max(worst[2], ((gradient - golden).abs().max() / golden.abs().max()).item())
    print("base model against transformers: logits {:.0e}, loss {:.0e}, gradients {:.0e}".format(*worst))
    assert worst[0] < 1e-9 and worst[1] < 1e-9 and 0.0 < worst[2] < 1e-8, "the base model"


def difference(name, expected, path):
    """Nothing if the file is as it should be, else how it differs. Another processor may round the last bits."""
    if not path.is_file():
        return f"{name}: missing"
    found = path.read_bytes()
    if found == expected:
        return None
    if not name.endswith(".safetensors"):
        return f"{name}: another text"
    found, expected = from_safetensors(found), from_safetensors(expected)
    if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (v.shape, v.dtype) for k, v in expected.items()}:
        return f"{name}: other tensors"
    worst = max(np.abs(value - found[key]).max() / max(1.0, np.abs(value).max()) for key, value in expected.items())
    if worst < 1e-11:
        print(f"{name}: equal but for rounding ({worst:.0e})")
        return None
    return f"{name}: differs by {worst}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    parser.add_argument("cases", nargs="*", help="only these cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, numpy {np.__version__}")
    check_base()
    files = make_bases()
    for name in arguments.cases or CASES:
        made, line = make_case(name)
        print(f"{name:25} {line}", flush=True)
        files |= made
    if not arguments.check:
        for name, content in files.items():
            (HERE / name).parent.mkdir(exist_ok=True)
            (HERE / name).write_bytes(content)
        print(f"{len(files)} files, {sum(map(len, files.values()))} bytes")
        return
    found = [problem for name, content in files.items() if (problem := difference(name, content, HERE / name))]
    if not arguments.cases:
        made = {name.split("/")[0] for name in files}
        folders = sorted({path.parent.name for path in HERE.glob("*/*.safetensors")})
        found += [f"{name}: no such case" for name in folders if name not in made]
    print("\n".join(found) or f"{len(files)} files as they should be")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

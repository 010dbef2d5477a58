"""GGUF files for tests: any metadata, tensors of any kind, and a decoder of each architecture as llama.cpp stores it."""

import json
import struct

import mlx.core as mx
import numpy as np
from halves import SIZES
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from convert.gguf_blocks import KINDS
from convert.gguf_decoder import NAMES

CODES = {kind.name: code for code, kind in KINDS.items()}
TOKENS = ["<unk>", "<s>", "</s>", "<image>", *"abcdefgh", "Ġ", "ab", "abc", "Ġab", "1", "2", "12"]
TOKENS += [f"w{number}" for number in range(len(TOKENS), 80)]
METADATA = {
    "general.license": "apache-2.0",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [2, 3, 3, 3, *[1] * 76],
    "tokenizer.ggml.merges": ["a b", "ab c", "Ġ ab", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}
PLACES = {  # of settings of mlx-lm's among llama.cpp's
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
}


def _pack_value(value):
    """Return the number of a value's kind, and its bytes."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 5, struct.pack("<i", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, struct.pack("<Q", len(value.encode())) + value.encode()
    parts = [_pack_value(one) for one in value]
    return 9, struct.pack("<IQ", parts[0][0] if parts else 8, len(parts)) + b"".join(
        part for _, part in parts
    )


def write_gguf(path, metadata, tensors, version=3):
    """Write a GGUF file; a tensor is an array, or the name or number of a kind, a shape and bytes."""
    header, data = b"", b""
    for key, value in metadata.items():
        kind, stored = _pack_value(value)
        header += _pack_value(key)[1] + struct.pack("<I", kind) + stored
    for name, tensor in tensors.items():
        if isinstance(tensor, mx.array):
            kind = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}[tensor.dtype]
            tensor = (kind, tensor.shape, np.array(tensor.reshape(-1).view(mx.uint8)).tobytes())
        kind, shape, stored = tensor
        header += _pack_value(name)[1] + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += struct.pack("<IQ", CODES.get(kind, kind), len(data))
        data += stored + b"\0" * (-len(stored) % 32)
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + header
    path.write_bytes(start + b"\0" * (-len(start) % 32) + data)
    return path


def alternate_halves(weight, num_heads):
    """Return the rows of a Llama's queries or keys as llama.cpp's own converter orders them."""
    shape = weight.shape
    return weight.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def make_gguf(folder, kind, *, metadata=None, tensors=None, dtype=mx.float32, **values):
    """Write a decoder twice: as ``plain/`` for mlx-lm, and as a GGUF file, whose path is returned."""
    values = SIZES | {"model_type": kind, "tie_word_embeddings": False} | values
    if kind == "qwen2":
        values.pop("head_dim", None)
    model_class, args_class = _get_classes(values)
    shapes = {
        name: v.shape for name, v in tree_flatten(model_class(args_class.from_dict(values)).parameters())
    }
    keys = mx.random.split(mx.random.key(0), len(shapes))
    weights = {
        name: (0.2 * mx.random.normal(shape, key=key) + (len(shape) == 1)).astype(dtype)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    plain = folder / "plain"
    plain.mkdir(parents=True)
    mx.save_safetensors(str(plain / "model.safetensors"), weights)
    (plain / "config.json").write_text(json.dumps(values))
    stored = {_their_name(name): _their_order(name, value, values) for name, value in weights.items()}
    stated = {f"{kind}.{theirs}": values[ours] for ours, theirs in PLACES.items() if ours in values}
    stated = {"general.architecture": kind} | METADATA | stated | (metadata or {})
    stated = {key: value for key, value in stated.items() if value is not None}
    return write_gguf(folder / f"{kind}.gguf", stated, stored | (tensors or {}))


def _their_name(name):
    for ours, theirs in {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }.items():
        name = name.replace(ours, theirs)
    for theirs, ours in NAMES.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    return name.replace("model.layers.", "blk.")


def _their_order(name, value, values):
    """Return a tensor as llama.cpp stores it: a vector in float32, a Llama's queries and keys in its own order."""
    if values["model_type"] == "llama" and ".q_proj." in name:
        value = alternate_halves(value, values["num_attention_heads"])
    if values["model_type"] == "llama" and ".k_proj." in name:
        value = alternate_halves(value, values["num_key_value_heads"])
    return value.astype(mx.float32) if value.ndim == 1 else value

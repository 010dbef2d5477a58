"""Makes a Honeybee checkpoint of random bfloat16 weights, several shards and gigabytes, to measure conversion.

``PYTHONPATH=.:tests python tests/convert/make_large.py DIR [--layers 24] [--format bin] [--shard-gb 1]``; its
tokenizer is a stand-in. ``/usr/bin/time -v python -m convert DIR --output OUT`` then prints the peak.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from stand_in import write_tokenizer

from convert.c_abstractor import connector_keys
from convert.image_encoders import INNER
from convert.sources.honeybee import CONNECTOR, DECODER, ENCODER
from mm1_mlx.config import ConnectorConfig

HIDDEN, FEED_FORWARD, VOCABULARY = 2048, 8192, 32_000
VISION = {
    "encoder_type": "openai.clip",
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 224,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}


def list_shapes(layers: int):
    """List every tensor's name and shape."""
    width, ff = VISION["hidden_size"], VISION["intermediate_size"]
    yield f"{ENCODER}{INNER}embeddings.class_embedding", (width,)
    yield f"{ENCODER}{INNER}embeddings.patch_embedding.weight", (width, 3, 14, 14)
    yield f"{ENCODER}{INNER}embeddings.position_embedding.weight", (257, width)
    norms = ["pre_layrnorm", "post_layernorm"]
    for i in range(VISION["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        linears = {f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (ff, width), "mlp.fc2": (width, ff)}
        for name, shape in linears.items():
            yield f"{ENCODER}{INNER}{layer}.{name}.weight", shape
            yield f"{ENCODER}{INNER}{layer}.{name}.bias", shape[:1]
    for norm in norms:
        yield f"{ENCODER}{INNER}{norm}.weight", (width,)
        yield f"{ENCODER}{INNER}{norm}.bias", (width,)
    connector = ConnectorConfig(
        type="c_abstractor",
        num_visual_tokens=144,
        input_dims=1024,
        hidden_dims=1024,
        output_dims=HIDDEN,
        num_blocks=3,
        num_readout_layers=2,
        position_grid=16,
    )
    for key in connector_keys(connector, {"pos_emb": (1, 256, 1024)}).moves:
        yield CONNECTOR + key, _find_connector_shape(key)
    yield f"{DECODER}model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield f"{DECODER}lm_head.weight", (VOCABULARY, HIDDEN)
    yield f"{DECODER}model.norm.weight", (HIDDEN,)
    for i in range(layers):
        layer = f"{DECODER}model.layers.{i}."
        for x in "qkvo":
            yield f"{layer}self_attn.{x}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{layer}mlp.gate_proj.weight", (FEED_FORWARD, HIDDEN)
        yield f"{layer}mlp.up_proj.weight", (FEED_FORWARD, HIDDEN)
        yield f"{layer}mlp.down_proj.weight", (HIDDEN, FEED_FORWARD)
        yield f"{layer}input_layernorm.weight", (HIDDEN,)
        yield f"{layer}post_attention_layernorm.weight", (HIDDEN,)


def _find_connector_shape(key: str) -> tuple[int, ...]:
    if key == "pos_emb":
        return (1, 256, 1024)
    if key.startswith("readout"):
        inputs = 1024 if ".0." in key else HIDDEN
        return (HIDDEN, inputs) if key.endswith("weight") else (HIDDEN,)
    if ".se." in key:
        outputs, inputs = (256, 1024) if "fc1" in key else (1024, 256)
        return (outputs, inputs, 1, 1) if key.endswith("weight") else (outputs,)
    if ".bn." in key:
        return (1024,)
    return (1024, 1, 3, 3) if "conv2" in key else (1024, 1024, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--format", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--shard-gb", type=float, default=1.0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in list_shapes(args.layers):
        nbytes = 2 * torch.Size(shape).numel()
        if shards[-1] and size + nbytes > args.shard_gb * 1e9:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += nbytes
    generator = torch.Generator().manual_seed(0)
    index = {}
    stem, end = ("model", "safetensors") if args.format == "safetensors" else ("pytorch_model", "bin")
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.{end}"
        state = {
            name: (0.02 * torch.randn(shape, generator=generator)).to(torch.bfloat16) for name, shape in shard
        }
        if end == "bin":
            torch.save(state, args.folder / file)
        else:
            save_file(state, args.folder / file, {"format": "pt"})
        index |= dict.fromkeys(state, file)
    (args.folder / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": index}))
    config = {
        "architectures": ["HoneybeeForConditionalGeneration"],
        "vision_config": VISION,
        "projector_config": {"projector_type": "c-abs", "num_query_tokens": 144, "feature_layer_index": -1},
        "text_config": {
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": args.layers,
            "num_attention_heads": 16,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(args.folder, 1000)


if __name__ == "__main__":
    main()

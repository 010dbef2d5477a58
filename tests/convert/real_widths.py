"""Make checkpoints of every public layout at the published widths, two layers deep, with random bfloat16 weights, and
measure their conversion: ``python tests/convert/real_widths.py FOLDER``.
"""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
from stand_in import GOLDEN, TOKENS, write_tokenizer

LAYERS = 2
CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "image_size": 336}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "image_size": 378}
LLAMA_2 = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
LLAMA_3 = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "vocab_size": 128256}
LLAMA_3 |= {"num_key_value_heads": 8, "max_position_embeddings": 8192}
HYPERCLOVAX = {
    "hidden_size": 3072,
    "intermediate_size": 7168,
    "num_attention_heads": 24,
    "vocab_size": 110592,
}
HYPERCLOVAX |= {"num_key_value_heads": 8, "head_dim": 128}
KANANA = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 24, "vocab_size": 128256}
KANANA |= {"num_key_value_heads": 8, "head_dim": 128}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def llama(prefix, sizes):
    """Return the names and shapes of a Llama."""
    width, hidden, heads = (sizes[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = sizes.get("head_dim", width // heads)
    keys = head * sizes.get("num_key_value_heads", heads)
    found = {
        f"{prefix}{name}.weight": (sizes["vocab_size"], width) for name in ("model.embed_tokens", "lm_head")
    }
    found[f"{prefix}model.norm.weight"] = (width,)
    for layer in (f"{prefix}model.layers.{i}." for i in range(LAYERS)):
        for name, rows in (("q_proj", head * heads), ("k_proj", keys), ("v_proj", keys)):
            found[f"{layer}self_attn.{name}.weight"] = (rows, width)
        found[f"{layer}self_attn.o_proj.weight"] = (width, head * heads)
        for name in ("gate_proj", "up_proj"):
            found[f"{layer}mlp.{name}.weight"] = (hidden, width)
        found[f"{layer}mlp.down_proj.weight"] = (width, hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}{name}.weight"] = (width,)
    return found


def vision(prefix, sizes, *, clip):
    """Return the names and shapes of transformers' CLIP or SigLIP."""
    width, hidden, places = sizes["hidden_size"], sizes["intermediate_size"], (sizes["image_size"] // 14) ** 2
    found = {
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (places + clip, width),
    } | norm("post_layernorm", width)
    if clip:
        found |= {"embeddings.class_embedding": (width,)} | norm("pre_layrnorm", width)
    else:
        found["embeddings.patch_embedding.bias"] = (width,)
    for layer in (f"encoder.layers.{i}." for i in range(LAYERS)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{layer}self_attn.{name}", width, width)
        found |= linear(f"{layer}mlp.fc1", hidden, width) | linear(f"{layer}mlp.fc2", width, hidden)
        found |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
    return {prefix + name: shape for name, shape in found.items()}


def qwen_vision(prefix, width):
    """Return the names and shapes of Qwen2-VL's encoder without its merger."""
    found = {"patch_embed.proj.weight": (width, 3, 2, 14, 14)}
    for layer in (f"blocks.{i}." for i in range(LAYERS)):
        found |= linear(f"{layer}attn.qkv", 3 * width, width) | linear(f"{layer}attn.proj", width, width)
        found |= linear(f"{layer}mlp.fc1", 4 * width, width) | linear(f"{layer}mlp.fc2", width, 4 * width)
        found |= norm(f"{layer}norm1", width) | norm(f"{layer}norm2", width)
    return {prefix + name: shape for name, shape in found.items()}


def connector(prefix, *, width, hidden, output, places, depth, merged=1):
    """Return the names and shapes of a C-Abstractor of ``depth`` blocks on either side."""
    found = {
        "pos_emb": (1, places, width),
        **linear("readout.0", output, hidden),
        **linear("readout.2", output, output),
    }
    for stage, first in ((0, width), (2, hidden * merged)):
        for block in range(1, depth + 1):
            name, width_in = f"net.{stage}.b{block}.", first if block == 1 else hidden
            reduced = round(width_in / 4)
            found |= {f"{name}conv1.conv.weight": (hidden, width_in, 1, 1)}
            found |= {f"{name}conv2.conv.weight": (hidden, 1, 3, 3)}
            found |= {f"{name}conv3.conv.weight": (hidden, hidden, 1, 1)}
            found |= linear(f"{name}se.fc1", reduced, hidden, 1, 1) | linear(
                f"{name}se.fc2", hidden, reduced, 1, 1
            )
            convolutions = ["conv1", "conv2", "conv3"]
            if width_in != hidden:
                found[f"{name}downsample.conv.weight"] = (hidden, width_in, 1, 1)
                convolutions.append("downsample")
            for one in convolutions:
                found |= norm(f"{name}{one}.bn", hidden)
    return {prefix + name: shape for name, shape in found.items()}


def write(folder, golden, shapes, changes, tokens):
    """Write a checkpoint with the golden one's configuration, changed, and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((GOLDEN / golden / "config.json").read_text())
    for section, values in changes.items():
        config = config | values if section == "" else config | {section: config[section] | values}
    (folder / "config.json").write_text(json.dumps(config))
    processor = GOLDEN / golden / "preprocessor_config.json"
    if processor.exists():
        (folder / processor.name).write_bytes(processor.read_bytes())
    write_tokenizer(folder, **TOKENS.get(tokens, {}))
    write_tensors(folder, shapes)


def write_tensors(folder, shapes):
    folder.mkdir(parents=True, exist_ok=True)
    noise = (mx.random.normal((1_000_003,)) * 0.02).astype(mx.bfloat16)
    tensors = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        tensors[name] = mx.tile(noise, count // noise.size + 1)[:count].reshape(shape)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "pt"})


def make_honeybee(folder):
    sizes = CLIP | {"image_size": 224}
    shapes = vision("vision_model.vision_model.", sizes, clip=True) | llama("language_model.", LLAMA_2)
    shapes |= connector("abstractor.", width=1024, hidden=1024, output=4096, places=256, depth=3)
    projector = {"depth": 3, "encoder_hidden_size": 1024, "hidden_size": 1024, "output_hidden_size": 4096}
    projector |= {"num_query_tokens": 144, "prenorm": False, "feature_layer_index": -2}
    text = LLAMA_2 | {"num_key_value_heads": 32, "num_hidden_layers": LAYERS, "max_position_embeddings": 4096}
    changes = {
        "vision_config": sizes | {"num_hidden_layers": LAYERS},
        "projector_config": projector,
        "text_config": text,
    }
    write(folder, "honeybee/refactor_fp32_safetensors", shapes, changes, None)


def make_360vl(folder):
    parts = {"width": 1024, "hidden": 1024, "output": 4096, "places": 577, "depth": 3}
    shapes = llama("", LLAMA_3) | connector("model.mm_projector_ctt.", **parts)
    shapes |= connector("model.mm_projector_ori.", **parts)
    projector = {"depth": 3, "encoder_hidden_size": 1024, "hidden_size": 1024, "num_queries": 144}
    golden = "qh360vl/tiny_two_projectors"
    changes = {"": LLAMA_3 | {"mm_num_tokens": 577}, "visual_projector_config": projector}
    write(folder, golden, shapes, changes, golden)
    text = {f"text_model.{name}": (768, 768) for name in ("one", "two")} | {"logit_scale": (1,)}
    tower = folder / "vision_tower"
    write_tensors(tower, vision("vision_model.", CLIP, clip=True) | text)
    sizes = CLIP | {"num_hidden_layers": LAYERS, "patch_size": 14}
    (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))


def make_hyperclovax(folder):
    shapes = vision("vision_model.vision_model.", SIGLIP, clip=False) | llama("language_model.", HYPERCLOVAX)
    shapes |= connector("mm_projector.", width=1152, hidden=1152, output=3072, places=729, depth=3)
    shapes |= {"image_newline": (3072,)}
    grids = [[378 * i, 378 * j] for i in range(1, 10) for j in range(1, 10) if i * j <= 9]
    changes = {
        "": {"num_queries_vis_abstractor_image": 81, "possible_resolutions": grids, "max_num_grids": 9},
        "vision_config": SIGLIP | {"num_hidden_layers": LAYERS},
        "text_config": HYPERCLOVAX,
    }
    golden = "hyperclovax_vision/tiny_siglip_anyres"
    write(folder, golden, shapes, changes, golden)


def make_kanana(folder):
    shapes = qwen_vision("vision_model.", 1280) | llama("language_model.", KANANA)
    shapes |= connector("abstractor.", width=1280, hidden=1024, output=2048, places=576, depth=2, merged=4)
    projector = {"depth": 2, "encoder_hidden_size": 1280, "hidden_size": 1024, "output_hidden_size": 2048}
    own = {"model_type": "kanana-1.5-3b-instruct", "architectures": ["LlamaForCausalLM"]}
    changes = {
        "vision_config": {"depth": LAYERS, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
        "projector_config": projector | {"pos_emb_size": 576},
        "text_config": KANANA | own | {"num_hidden_layers": LAYERS},
    }
    write(folder, "kanana", shapes, changes, "kanana")


MAKERS = {
    "honeybee": make_honeybee,
    "360vl": make_360vl,
    "hyperclovax": make_hyperclovax,
    "kanana": make_kanana,
}


def measure(source, output):
    """Convert in a process of its own, and return the gigabytes written, its peak memory in gigabytes, and seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "convert", source, "--output", output, "--overwrite"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{source} was not converted")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    written = sum(path.stat().st_size for path in Path(output).glob("*.safetensors"))
    return written / 1e9, peak / 1e9, time.perf_counter() - start


if __name__ == "__main__":
    room, *names = sys.argv[1:]
    for name in names or MAKERS:
        folder = Path(room) / name
        maker = multiprocessing.get_context("spawn").Process(target=MAKERS[name], args=(folder,))
        maker.start()  # a process of its own, whose memory is not counted
        maker.join()
        written, peak, seconds = measure(str(folder), f"{folder}-mm1")
        print(f"{name}: {written:.2f} GB written, {peak:.2f} GB at the peak, {seconds:.0f} s", flush=True)

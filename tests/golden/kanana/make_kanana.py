"""Makes this folder with PyTorch and transformers: a whole tiny Kanana-1.5-v, from picture to greedy tokens.

The image encoder is that of ``../kanana_vision``; the decoder is transformers' Llama. The connector is written
out here in PyTorch's channels-first functions; ``../cabstractor_variants/kanana_dynamic`` is the published class's.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

FOLDER = Path(__file__).parent
VISION = FOLDER.parent / "kanana_vision"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, HEIGHT = 140, 112  # what the rule makes of 130 x 100 pixels
NEW_LINE = 5
PROJECTOR = {
    "projector_type": "dynamic-c-abs",
    "depth": 2,
    "encoder_hidden_size": 32,
    "hidden_size": 24,
    "output_hidden_size": 40,
    "merge_size": 2,
    "mlp_depth": 2,
    "pos_emb": True,
    "pos_emb_size": 16,
    "prenorm": False,
    "num_eos_tokens": 0,
    "feature_layer_index": -1,
}
TEXT = {
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 80,
    "hidden_size": 40,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
generator = torch.Generator().manual_seed(7201)


def normal(shape, scale, mean=0.0):
    """Return random numbers that float16 holds exactly."""
    return (mean + scale * torch.randn(shape, generator=generator)).half().float()


def linear(name, *shape):
    """Make a weight under its published name; 1 x 1 convolutions have four axes."""
    weights[name] = normal(shape, 1.2 / np.prod(shape[1:]) ** 0.5)


def norm(name, dims):
    weights[f"{name}.weight"], weights[f"{name}.bias"] = normal((dims,), 0.2, 1.0), normal((dims,), 0.1)


weights = {}
E, C, D = PROJECTOR["encoder_hidden_size"], PROJECTOR["hidden_size"], PROJECTOR["output_hidden_size"]
weights["pos_emb"] = normal((1, PROJECTOR["pos_emb_size"], E), 0.3)
for stage, first in ((0, E), (2, 4 * C)):
    for block in range(1, PROJECTOR["depth"] + 1):
        b, inputs = f"net.{stage}.b{block}", first if block == 1 else C
        squeezed = round(inputs / 4)
        linear(f"{b}.conv1.conv.weight", C, inputs, 1, 1)
        linear(f"{b}.conv2.conv.weight", C, 1, 3, 3)
        linear(f"{b}.conv3.conv.weight", C, C, 1, 1)
        for conv in ("conv1", "conv2", "conv3"):
            norm(f"{b}.{conv}.bn", C)
        for fc, shape in (("fc1", (squeezed, C)), ("fc2", (C, squeezed))):
            linear(f"{b}.se.{fc}.weight", *shape, 1, 1)
            weights[f"{b}.se.{fc}.bias"] = normal((shape[0],), 0.1)
        if inputs != C:
            linear(f"{b}.downsample.conv.weight", C, inputs, 1, 1)
            norm(f"{b}.downsample.bn", C)
for layer, inputs in ((0, C), (2, D)):
    linear(f"readout.{layer}.weight", D, inputs)
    weights[f"readout.{layer}.bias"] = normal((D,), 0.1)


def channels(x, name):
    """Apply LayerNorm over the channels of a feature map."""
    x = x.permute(0, 2, 3, 1)
    x = F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)
    return x.permute(0, 3, 1, 2)


def run_block(x, b):
    y = F.silu(channels(F.conv2d(x, weights[f"{b}.conv1.conv.weight"]), f"{b}.conv1.bn"))
    y = F.conv2d(y, weights[f"{b}.conv2.conv.weight"], padding=1, groups=C)
    y = F.silu(channels(y, f"{b}.conv2.bn"))
    s = F.silu(
        F.conv2d(y.mean((2, 3), keepdim=True), weights[f"{b}.se.fc1.weight"], weights[f"{b}.se.fc1.bias"])
    )
    y = y * torch.sigmoid(F.conv2d(s, weights[f"{b}.se.fc2.weight"], weights[f"{b}.se.fc2.bias"]))
    y = channels(F.conv2d(y, weights[f"{b}.conv3.conv.weight"]), f"{b}.conv3.bn")
    if f"{b}.downsample.conv.weight" in weights:
        x = channels(F.conv2d(x, weights[f"{b}.downsample.conv.weight"]), f"{b}.downsample.bn")
    return F.silu(x + y)


def run_connector(features, rows, columns):
    """Turn (rows * columns, E), in the encoder's order, into (rows * columns / 4, D)."""
    table = weights["pos_emb"].reshape(1, 4, 4, E).permute(0, 3, 1, 2)
    x = features.reshape(1, rows, columns, E).permute(0, 3, 1, 2)
    x = x + F.interpolate(table, (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    for block in range(1, PROJECTOR["depth"] + 1):
        x = run_block(x, f"net.0.b{block}")
    x = F.pixel_unshuffle(x, 2)  # channel, row, column
    for block in range(1, PROJECTOR["depth"] + 1):
        x = run_block(x, f"net.2.b{block}")
    x = x.flatten(2)[0].T
    x = F.silu(F.linear(x, weights["readout.0.weight"], weights["readout.0.bias"]))
    return F.linear(x, weights["readout.2.weight"], weights["readout.2.bias"])


vision_config = json.loads((VISION / "config.json").read_text())
encoder = Qwen2VisionTransformerPretrainedModel._from_config(
    Qwen2VLVisionConfig(**vision_config, hidden_size=E), attn_implementation="eager"
).eval()
encoder_weights = {k: v.float() for k, v in load_file(VISION / "model.safetensors").items()}
encoder.load_state_dict(
    {k.removeprefix("vision_model."): v for k, v in encoder_weights.items()}, strict=False
)
decoder = LlamaForCausalLM._from_config(LlamaConfig(**TEXT), attn_implementation="eager").eval()
for name, parameter in decoder.named_parameters():
    scale = 0.3 if "embed" in name else 1.2 / parameter[0].numel() ** 0.5
    parameter.data = normal(parameter.shape, 0.2, 1.0) if "norm" in name else normal(parameter.shape, scale)

rng = np.random.default_rng(7201)
y, x = np.mgrid[:100, :130]
values = np.stack([2 * x, 2.5 * y, 127 + 120 * np.sin(x / 9) * np.cos(y / 6)], -1) + rng.normal(
    0, 9, (100, 130, 3)
)
picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
picture.save(FOLDER / "image_0.png")
resized = np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
pixels = (torch.from_numpy(resized / 255.0).float() - torch.tensor(MEAN)) / torch.tensor(STD)

rows, columns = HEIGHT // 14, WIDTH // 14
blocks = pixels.reshape(rows // 2, 2, 14, columns // 2, 2, 14, 3).permute(0, 3, 1, 4, 6, 2, 5)
packed = blocks.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(rows * columns, -1)
states = []
for module in (encoder.patch_embed, *encoder.blocks):
    module.register_forward_hook(lambda module, inputs, output: states.append(output))
with torch.no_grad():
    encoder(packed, torch.tensor([(1, rows, columns)]))
    visual = run_connector(states[-1], rows, columns)
    line = [-1] * (columns // 2)
    ids = [1, 9]
    for _ in range(rows // 2):
        ids += [NEW_LINE, *line]
    ids = torch.tensor([*ids, 11, 12, 13])
    embeddings = decoder.get_input_embeddings()(ids.clamp(min=0)).clone()
    embeddings[ids == -1] = visual
    logits = decoder(inputs_embeds=embeddings[None]).logits[0]
    greedy, sequence = [], embeddings
    for _ in range(8):
        greedy.append(decoder(inputs_embeds=sequence[None]).logits[0, -1].argmax())
        sequence = torch.cat([sequence, decoder.get_input_embeddings()(greedy[-1][None])])

arrays = {  # the pixels can be made again from the picture
    "image_sizes_wh": torch.tensor([[130, 100]]),
    "input_ids_0": ids,
    "connector.output": visual[None],
    "image_features_0": visual,
    "lm.inputs_embeds_0": embeddings,
    "lm.logits_0": logits,
    "greedy_0": torch.stack(greedy),
} | {f"vision.hidden_{i}": state[None] for i, state in enumerate(states)}
save_file({k: v.clone().contiguous() for k, v in arrays.items()}, FOLDER / "io.safetensors")
stored = encoder_weights | {f"abstractor.{k}": v for k, v in weights.items()}
stored |= {f"language_model.{k}": v for k, v in decoder.state_dict().items()}
save_file(
    {k: v.half().contiguous() for k, v in stored.items()}, FOLDER / "model.safetensors", {"format": "pt"}
)
config = {
    "architectures": ["KananaVForConditionalGeneration"],
    "model_type": "kanana-1.5-v",
    "projector_config": PROJECTOR,
    "text_config": TEXT,
    "vision_config": vision_config,
}
(FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
processor = {"image_mean": MEAN, "image_std": STD, "min_pixels": 56 * 56, "max_pixels": 14 * 14 * 4 * 1280}
(FOLDER / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")

"""One random LLaVA in two folders, mlx_vlm's and ours, and rows that both read; for ``against_mlx_vlm.py``.

Image encoder (CLIP's ViT) and decoder (Llama) have the same weights in both. LLaVA hands every patch to the decoder
through two linear layers: a C-Abstractor without convolutions and with a visual token for each patch is the same, but
for SiLU in place of GELU, and takes the same weights too.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mm1_mlx import MM1, MM1Config, save, tiny

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
IMAGE = "<image>"
BLOCKS = 3  # of a C-Abstractor's convolutions on each side of the pooling, as ``convert`` makes a new one
ROW_KINDS = 3  # a short answer, a caption, a caption and several answers


@dataclass(frozen=True)
class Sizes:
    """The sizes of both models."""

    image_size: int  # pixels, each side
    encoder_dims: int
    decoder_dims: int
    num_layers: int  # of encoder and of decoder
    patch_size: int = 14  # pixels, each side
    head_dims: int = 64

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_pooled(self) -> int:
        """The number of visual tokens of the C-Abstractor: one for 2 x 2 patches, as MM1 makes 144 of 576."""
        return (self.image_size // self.patch_size // 2) ** 2


def make_rows(folder: Path, number: int) -> None:
    """Write pictures, and questions with short and long answers in ``train.jsonl``, a form that both sides read."""
    folder.mkdir(parents=True)
    lines = []
    for row in range(number):
        seed = tiny.TRAINING_SEEDS + row
        scene, rng = tiny.make_scene(seed), random.Random(seed)
        asked = [q for kind in tiny.KINDS if (q := tiny.make_question(scene, kind, rng))]
        question, answer = "Describe the picture.", tiny.caption(scene)
        if row % ROW_KINDS == 0:
            question, answer = asked[0].text, asked[0].answer
        elif row % ROW_KINDS == 2:
            question = " ".join([question, *(q.text for q in asked)])
            answer = " ".join([answer, *(q.answer for q in asked)])
        tiny.render(scene).save(folder / f"{row}.png")
        lines.append(json.dumps({"image": f"{row}.png", "question": question, "answer": answer}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def count_tokens(rows: Path, companions: Path) -> tuple[float, float]:
    """Return the mean text tokens of a row, with those of the chat template, and those of its answer and end."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(companions / "tokenizer.json"))
    text = answers = 0
    lines = (rows / "train.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        answer = len(tokenizer.encode(row["answer"]).ids) + 1  # <|end|>
        asked = f"<|begin|><|user|>{row['question']}<|end|><|assistant|>"
        text += len(tokenizer.encode(asked).ids) + answer
        answers += answer
    return text / len(lines), answers / len(lines)


def make_ours(
    folder: Path, sizes: Sizes, companions: Path, *, num_visual_tokens: int, twin: MM1 | None = None
) -> MM1:
    """Make an MM1 folder, with LLaVA's connector for as many visual tokens as patches, else with a C-Abstractor.

    Args:
        folder: the folder to make.
        sizes: the sizes of the model.
        companions: folder of the tokenizer.
        num_visual_tokens: number of visual tokens of a picture, a perfect square.
        twin: the model whose image encoder and decoder are copied.
    """
    convolutions = num_visual_tokens < sizes.num_patches
    mx.random.seed(0)
    model = MM1(
        MM1Config.from_dict(
            {
                "vision_config": {
                    "image_size": sizes.image_size,
                    "patch_size": sizes.patch_size,
                    "hidden_dims": sizes.encoder_dims,
                    "feed_forward_dims": 4 * sizes.encoder_dims,
                    "num_layers": sizes.num_layers,
                    "num_heads": sizes.encoder_dims // sizes.head_dims,
                    "activation": "quick_gelu",
                    "norm_eps": 1e-5,
                    "class_token": True,
                    "pre_norm": True,
                    "final_norm": False,
                    "patch_bias": False,
                    "feature_layer": -2,  # LLaVA's
                },
                "connector_config": {
                    "type": "c_abstractor",
                    "num_visual_tokens": num_visual_tokens,
                    "input_dims": sizes.encoder_dims,
                    "hidden_dims": sizes.encoder_dims if convolutions else 0,
                    "output_dims": sizes.decoder_dims,
                    "num_blocks": BLOCKS if convolutions else 0,
                    "num_readout_layers": 2,
                },
                "text_config": _describe_decoder(sizes),
                "image_config": {
                    "image_size": sizes.image_size,
                    "mean": MEAN,
                    "std": STD,
                    "resize": "crop",
                },
                "image_token_id": tiny.IMAGE_ID,
                "eos_token_id": _find_end_id(companions),
            }
        )
    )
    if twin is not None:
        for part in ("image_encoder", "decoder"):
            model[part].update(twin[part].parameters())
    save(model, folder, companions=companions)
    return model


def make_theirs(folder: Path, sizes: Sizes, companions: Path, twin: MM1) -> None:
    """Make a ``llava`` folder as transformers stores it, with the weights of ``twin``."""
    folder.mkdir(parents=True)
    weights = dict(name_their_weights(twin, sizes))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    vision = {
        "model_type": "clip_vision_model",
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "hidden_size": sizes.encoder_dims,
        "intermediate_size": 4 * sizes.encoder_dims,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.encoder_dims // sizes.head_dims,
        "projection_dim": sizes.encoder_dims,
    }
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": vision,
        "text_config": _describe_decoder(sizes),
        "image_token_index": tiny.IMAGE_ID,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": tiny.VOCAB_SIZE,
        "eos_token_id": _find_end_id(companions),
    }
    pixels = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": sizes.image_size},
        "crop_size": {"height": sizes.image_size, "width": sizes.image_size},
        "image_mean": MEAN,
        "image_std": STD,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": sizes.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": IMAGE,
    }
    files = {"config.json": config, "preprocessor_config.json": pixels, "processor_config.json": processor}
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    for source in companions.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())


def name_their_weights(twin: MM1, sizes: Sizes):
    """Yield the weights of an MM1 with LLaVA's connector under the names of transformers."""
    encoder, own = "vision_tower.vision_model.", dict(tree_flatten(twin.parameters()))
    patches = own.pop("image_encoder.patch_embedding.weight")
    patches = patches.reshape(-1, sizes.patch_size, sizes.patch_size, 3).transpose(0, 3, 1, 2)
    yield f"{encoder}embeddings.patch_embedding.weight", patches
    first = own.pop("image_encoder.class_position")[None]
    positions = mx.concatenate([first, own.pop("image_encoder.position_embedding")])
    yield f"{encoder}embeddings.position_embedding.weight", positions
    renamed = (
        ("image_encoder.class_embedding", f"{encoder}embeddings.class_embedding"),
        ("image_encoder.pre_norm", f"{encoder}pre_layrnorm"),
        ("image_encoder.post_norm", f"{encoder}post_layernorm"),
        ("image_encoder.layers", f"{encoder}encoder.layers"),
        (".norm", ".layer_norm"),
        (".attention.", ".self_attn."),
        (".feed_forward.", ".mlp."),
        ("connector.readout.0", "multi_modal_projector.linear_1"),
        ("connector.readout.1", "multi_modal_projector.linear_2"),
    )
    for key, value in own.items():
        if key.startswith("decoder."):
            yield "language_model." + key.removeprefix("decoder."), value
            continue
        for ours, theirs in renamed:
            key = key.replace(ours, theirs)
        yield key, value


def _describe_decoder(sizes: Sizes) -> dict:
    heads = sizes.decoder_dims // sizes.head_dims
    return {
        "model_type": "llama",
        "hidden_size": sizes.decoder_dims,
        "intermediate_size": sizes.decoder_dims * 11 // 4,  # about Llama's
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": tiny.VOCAB_SIZE,
        "tie_word_embeddings": False,
    }


def _find_end_id(companions: Path) -> int:
    return json.loads((companions / "generation_config.json").read_text("utf-8"))["eos_token_id"]

"""Make a reference run with PyTorch and transformers from the source checkpoint itself.

Image encoder and decoder are transformers' own classes, run on a generated picture and prompt. No library has the
connector's class, so between the two its output is taken from the model that is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mm1_mlx.errors import CheckpointError
from mm1_mlx.inputs.layout import layout
from mm1_mlx.inputs.preprocess import normalize
from mm1_mlx.inputs.sub_images import views
from mm1_mlx.model.mm1 import MM1

from .reference import Reference
from .source_config import SourceConfig, read_json
from .tensors import Tensors, open_tensors

PROMPT_LENGTH = 12
PICTURE_SIZE = (230, 150)  # neither square nor a multiple of a patch


def torch_reference(source: Path, model: MM1) -> Reference:
    """Run the source's encoder and decoder in PyTorch.

    Raises:
        CheckpointError: torch or transformers is not there, or neither class is known to transformers.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"`torch_source` needs torch: pip install 'mm1-mlx[torch]' ({error})."
        ) from None
    picture = _make_picture()
    cut = views(picture, model.config.image_config)
    pixels = normalize(cut, model.config.image_config)
    stages = {}
    config = read_json(source / "config.json")
    with torch.no_grad(), open_tensors(source) as tensors:
        encoder_tensors, encoder_config = _encoder_of(source, config, tensors)
        for name, value in _encoder_states(encoder_tensors, encoder_config, model, pixels):
            stages[f"vision.{name}"] = value
        order = layout(picture.size, model.config).order
        visual = model.arrange(model.encode_images(mx.array(pixels)).flatten(0, 1), order)
        token = model.config.image_token_id
        rng = np.random.default_rng(0)
        text = [
            id
            for id in rng.integers(1, model.config.text_config.vocab_size, 4 * PROMPT_LENGTH)
            if id != token
        ]
        ids = [*map(int, text[:2]), *[token] * len(visual), *map(int, text[2:PROMPT_LENGTH])]
        embeddings = model.embed_inputs(mx.array(ids), visual_tokens=visual).astype(mx.float32)
        stages["lm.logits"] = _logits(tensors, config, np.array(embeddings))
    return Reference([mx.array(pixels)], {"": ids}, stages, [picture.size])


def _make_picture() -> Any:
    """Make a picture with edges, gradients and noise."""
    from PIL import Image

    width, height = PICTURE_SIZE
    y, x = np.mgrid[:height, :width]
    values = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 7) * np.cos(y / 5)], -1)
    values[40:90, 60:140] = (200, 30, 60)
    noise = np.random.default_rng(1).normal(0, 12, values.shape)
    return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))


def _encoder_of(source: Path, config: SourceConfig, tensors: Tensors) -> tuple[Tensors, SourceConfig]:
    """Return the tensors and configuration of the image encoder, which 360VL keeps in a folder of its own."""
    if "mm_vision_tower" in config:
        place = source / config.need("mm_vision_tower", str)
        if not place.is_dir():
            raise CheckpointError(f"{place} is no folder; put the image encoder there to check against it.")
        tensors, config = open_tensors(place), read_json(place / "config.json")
    return tensors, config.section("vision_config") if "vision_config" in config else config


def _encoder_states(
    tensors: Tensors, config: SourceConfig, model: MM1, pixels: np.ndarray
) -> list[tuple[str, mx.array]]:
    """Return the hidden states of transformers' encoder, up to the one that the model uses."""
    import torch

    used = model.config.vision_config.num_feature_layers
    nchw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    if model.config.vision_config.positions == "rotary":
        states = _qwen2_vl_states(tensors, config, model, nchw)
    else:
        from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

        clip = model.config.vision_config.class_token
        values = dict(config.values)
        values.setdefault("patch_size", model.config.vision_config.patch_size)
        values.pop("model_type", None)
        if clip:
            twin = CLIPVisionModel(CLIPVisionConfig(**values)).eval()
        else:
            values["vision_use_head"] = False
            twin = SiglipVisionModel(SiglipVisionConfig(**values)).eval()
        _copy_weights(twin, tensors, marks=("embeddings.patch_embedding.weight",))
        states = twin(nchw, output_hidden_states=True).hidden_states
    return [(f"hidden_{i}", mx.array(state.numpy())) for i, state in enumerate(states[: used + 1])]


def _qwen2_vl_states(tensors: Tensors, config: SourceConfig, model: MM1, nchw: Any) -> list[Any]:
    """Return the output of each of Qwen2-VL's blocks, for patches in its own order."""
    import torch
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    values = {key: value for key, value in config.values.items() if key != "model_type"}
    twin = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**values)).eval()
    _copy_weights(twin, tensors, marks=("patch_embed.proj.weight",), absent=("merger.",))
    size, merge, frames = config.need("patch_size", int), config.need("spatial_merge_size", int), 2
    count, channels, height, width = nchw.shape
    rows, columns = height // size, width // size
    grid = nchw.reshape(count, channels, rows // merge, merge, size, columns // merge, merge, size)
    patches = grid.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(count * rows * columns, channels, 1, size, size)
    patches = patches.expand(-1, -1, frames, -1, -1).reshape(len(patches), -1)
    states: list[Any] = []
    hooks = [block.register_forward_hook(lambda _, __, out: states.append(out)) for block in twin.blocks]
    hooks.append(twin.patch_embed.register_forward_hook(lambda _, __, out: states.insert(0, out)))
    twin(patches, grid_thw=torch.tensor([[1, rows, columns]] * count))
    for hook in hooks:
        hook.remove()
    return [state.reshape(count, rows * columns, -1) for state in states]


def _logits(tensors: Tensors, config: SourceConfig, embeddings: np.ndarray) -> mx.array:
    """Return the logits of transformers' Llama for the same embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    nested = any(name in config for name in ("text_config", "language_config"))
    text = config.section("text_config", "language_config") if nested else config
    name = next((n for n in tensors.infos if n.endswith("model.embed_tokens.weight")), None)
    if name is None:
        raise CheckpointError(f"{config.where}: no Llama decoder is beside it; check against its own folder.")
    values = {key: value for key, value in text.values.items() if key not in ("model_type", "vocab_size")}
    head = tensors.infos.get(name.replace("model.embed_tokens", "lm_head"))
    values["tie_word_embeddings"] = head is None
    vocabulary = tensors.infos[name].shape[0]
    twin = LlamaForCausalLM(LlamaConfig(**values, vocab_size=vocabulary)).eval()
    _copy_weights(twin, tensors, marks=("model.embed_tokens.weight",))
    return mx.array(twin(inputs_embeds=torch.from_numpy(embeddings)[None]).logits[0].numpy())


def _copy_weights(
    twin: Any, tensors: Tensors, *, marks: tuple[str, ...], absent: tuple[str, ...] = ()
) -> None:
    """Copy the checkpoint's values into a PyTorch model, matching tensors by the ends of their names."""
    import torch

    state = twin.state_dict()
    mark = next(key for key in state if key.endswith(marks))
    name = next((n for n in tensors.infos if n.endswith(marks)), None)
    if name is None:
        raise CheckpointError(f"the checkpoint has no {marks[0]}: transformers has no such image encoder.")
    prefix, own = name.removesuffix(marks[0]), mark.removesuffix(marks[0])
    for key, value in state.items():
        stored = prefix + key.removeprefix(own)
        if key.startswith(absent) if absent else False:
            continue
        if stored not in tensors.infos:
            if (
                "position_ids" in key
                or "inv_freq" in key
                or (key.endswith(("weight", "bias")) and "post_layernorm" in key)
            ):
                continue
            if key == "lm_head.weight":
                continue  # the head is tied to the embedding
            raise CheckpointError(
                f"the checkpoint has no {stored}, which transformers' {type(twin).__name__} needs."
            )
        read = np.array(tensors.read(stored).astype(mx.float32))
        value.copy_(torch.from_numpy(read[: value.shape[0]] if read.ndim else read))

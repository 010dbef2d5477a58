"""A summary of a model: its parts, their sizes and parameters, and the number of tokens of a picture."""

from __future__ import annotations

from mm1_mlx.config import DecoderConfig, ImageConfig, MlxLmDecoderConfig, MM1Config
from mm1_mlx.model.mm1 import MM1, count_parameters
from mm1_mlx.seeing.boxes import find_sight

PICTURES = ((378, 378), (1344, 1344), (4032, 3024))  # width and height in pixels; the last is a phone's


def describe_model(config: MM1Config) -> str:
    """Return a summary of everything that the configuration decides. No weight is evaluated, so it needs no memory."""
    model = MM1(config)
    parts = {"image encoder": model.image_encoder, "connector": model.connector, "decoder": model.decoder}
    sizes = {name: count_parameters(part) for name, part in parts.items()}
    about = {"image encoder": _encoder(config), "connector": _connector(config), "decoder": _decoder(config)}
    lines = []
    for name, (first, *more) in about.items():
        lines += [f"{name:14} {first}", *(f"{'':14} {line}" for line in more)]
        lines.append(f"{'':14} {sizes[name]:,} parameters")
    lines.append(f"{'together':14} {sum(sizes.values()):,} parameters")
    context = config.text_config.max_positions
    lines.append(f"{'context':14} {'not said' if context is None else f'{context:,} tokens'}")
    lines.append(f"{'quantization':14} {_quantization(config)}")
    lines.append(f"{'untrained':14} {' and '.join(config.untrained) or 'nothing'}")
    lines.append(f"{'a picture':14} {_describe_resizing(config.image_config)}")
    return "\n".join(lines + _costs(config))


def _encoder(config: MM1Config) -> list[str]:
    vision, size = config.vision_config, config.image_config.image_size
    used = vision.num_feature_layers
    layers = f"{vision.num_layers} layers" + (f" ({used} used)" if used < vision.num_layers else "")
    lines = [
        f"{layers}, width {vision.hidden_dims}, {vision.num_heads} heads, {vision.feed_forward_dims} inside, "
        f"{'gated ' if vision.gated else ''}{vision.activation}"
    ]
    if vision.positions == "rotary":
        return [*lines, f"patches of {vision.patch_size} x {vision.patch_size} pixels, pictures of any size"]
    side, _ = config.patch_grid
    interpolated = (
        "" if side == vision.grid_side else f", positions interpolated from {vision.image_size} pixels"
    )
    return [
        *lines,
        f"{size} x {size} pixels in patches of {vision.patch_size} x {vision.patch_size}: {side} x {side}{interpolated}",
    ]


def _connector(config: MM1Config) -> list[str]:
    connector = config.connector_config
    inside = f", width {connector.hidden_dims} inside" if connector.hidden_dims else ""
    lines = [f"{connector.type}, {connector.input_dims} to {connector.output_dims}{inside}"]
    if connector.type.startswith("c_abstractor"):
        lines[0] += f", {connector.num_blocks} blocks before the pooling and after"
    extra = f" and {connector.num_extra_tokens} learned ones" if connector.num_extra_tokens else ""
    if connector.merge_size:
        return [
            *lines,
            f"a visual token for each {connector.merge_size} x {connector.merge_size} patches{extra}",
        ]
    twice = "twice " if connector.type == "c_abstractor_pair" else ""
    per = "a picture" if twice else "a view"
    lines.append(f"{twice}{connector.side} x {connector.side} visual tokens{extra} for {per}")
    return lines


def _decoder(config: MM1Config) -> list[str]:
    decoder = config.text_config
    if isinstance(decoder, MlxLmDecoderConfig):
        named = {
            "num_hidden_layers": "layers",
            "num_attention_heads": "heads",
            "num_key_value_heads": "heads for keys and values",
            "intermediate_size": "inside",
        }
        sizes = [f"{decoder.values[key]} {what}" for key, what in named.items() if key in decoder.values]
        return [
            f"{decoder.model_type} (mlx-lm), width {decoder.hidden_dims}, {', '.join(sizes)}",
            f"vocabulary of {decoder.vocab_size:,}",
        ]
    return [
        f"{decoder.num_layers} layers, width {decoder.hidden_dims}, {decoder.num_heads} heads of {decoder.head_dims} "
        f"({decoder.num_kv_heads} for keys and values), {decoder.feed_forward_dims} inside{_experts(decoder)}",
        f"vocabulary of {decoder.vocab_size:,}, head {'tied to the embedding' if decoder.tied_head else 'of its own'}",
    ]


def _experts(decoder: DecoderConfig) -> str:
    if not decoder.num_experts:
        return ""
    return f", {decoder.num_experts} experts in one layer of {decoder.sparse_every}, 2 at work"


def _quantization(config: MM1Config) -> str:
    packed = config.quantization
    if packed is None:
        return "none"
    different = sum(isinstance(value, dict) for value in packed.values())
    but = f", {different} layers otherwise" if different else ""
    return f"{packed.get('bits')} bit in groups of {packed.get('group_size')}, {packed.get('mode', 'affine')}{but}"


def _describe_resizing(image: ImageConfig) -> str:
    """Return in words how a picture becomes views."""
    if image.resize == "smart":
        return (
            f"keeps its shape: sides multiples of {image.size_multiple} pixels, "
            f"{image.min_pixels:,} to {image.max_pixels:,} pixels together; one view"
        )
    to = {"squash": "stretched to", "crop": "its middle, resized to", "pad": "padded and resized to"}[
        image.resize
    ]
    size, twice = (f"{side} x {side} pixels" for side in (image.image_size, 2 * image.image_size))
    most = image.max_sub_images
    return {
        "none": f"{to} {size}; one view",
        "static": f"{to} {twice}: the whole at half the size, then 4 crops of {size}",
        "dynamic": f"padded to a grid of {image.min_sub_images} to {most} crops of {size}, then the whole, {to} {size}",
        "quadrants": f"padded and resized to {twice}: 4 crops of {size}, then the whole at half the size",
        "anyres": f"padded to {size}, then to a grid of up to {most} crops of {size}"
        + (", tokens of padding dropped" if image.unpad else ""),
    }[image.sub_images]


def _costs(config: MM1Config) -> list[str]:
    context = config.text_config.max_positions
    lines = [f"{'':14} {'pixels':>12} {'views':>6} {'visual tokens':>14} {'of the context':>15}"]
    for width, height in PICTURES:
        seen = find_sight((width, height), config)
        share = "" if context is None else f"{100 * len(seen.tokens) / context:.1f} %"
        lines.append(
            f"{'':14} {f'{width} x {height}':>12} {len(seen.views):6} {len(seen.tokens):14,} {share:>15}".rstrip()
        )
    return lines

"""The configuration of a model: frozen dataclasses that are read from and written to ``config.json``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mm1_mlx.errors import ConfigError
from mm1_mlx.image_config import ImageConfig
from mm1_mlx.strict import LARGEST, Config, typed

Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu"]
ConnectorType = Literal["c_abstractor", "c_abstractor_pair", "average_pool", "attention_pool"]

MOST_LAYERS = 10_000
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageEncoderConfig(Config):
    """The sizes of an image encoder, a ViT, with switches for the variants of CLIP, SigLIP, AIMv2 and Qwen2-VL.

    Source: MM1, "Model Architecture Ablations" (image encoder pre-training).
    """

    image_size: int  # pixels, each side, of the learned positions
    patch_size: int  # pixels, each side
    hidden_dims: int
    feed_forward_dims: int
    num_layers: int
    num_heads: int
    activation: Activation
    norm_eps: float
    class_token: bool  # CLIP has one; it is not part of the patch features
    pre_norm: bool  # normalise before the first layer, as CLIP does
    final_norm: bool  # normalise the patch features
    patch_bias: bool
    feature_layer: int = -1  # the hidden state that is used: 0 before the first layer, -1 after the last
    positions: Literal["learned", "rotary"] = "learned"  # rotary ones have two axes, for pictures of any size
    temporal_patch_size: int = 1  # frames embedded together; a still picture is repeated
    patch_block: int = 1  # side of the blocks of patches that follow one another; 1 means row by row
    norm: Literal["layer", "rms"] = "layer"  # AIMv2 has RMSNorm
    patch_norm: bool = False  # normalise the embedded patches before positions are added, as AIMv2 does
    gated: bool = False  # AIMv2's SwiGLU in the feed-forward layers
    bias: bool = True  # of the layers' linear maps; AIMv2 has none

    def __post_init__(self) -> None:
        self._require_positive(
            "image_size",
            "patch_size",
            "hidden_dims",
            "feed_forward_dims",
            "num_layers",
            "num_heads",
            "norm_eps",
            "temporal_patch_size",
            "patch_block",
        )
        self._require(
            self.image_size >= self.patch_size,
            f"image_size is {self.image_size}, smaller than one patch of {self.patch_size}.",
        )
        self._require(
            self.hidden_dims % self.num_heads == 0,
            f"hidden_dims is {self.hidden_dims}, not a multiple of num_heads {self.num_heads}.",
        )
        n = self.num_layers
        self._require(n <= MOST_LAYERS, f"num_layers is {n}, expected at most {MOST_LAYERS}.")
        self._require(
            -n - 1 <= self.feature_layer <= n,
            f"feature_layer is {self.feature_layer}, expected {-n - 1} to {n} for {n} layers.",
        )
        self._check_positions()

    def _check_positions(self) -> None:
        if self.positions == "learned":
            self._require(
                self.patch_block == 1,
                f"patch_block is {self.patch_block}, expected 1: learned positions go row by row.",
            )
            return
        head_dims = self.hidden_dims // self.num_heads
        self._require(
            head_dims % 4 == 0,
            f"hidden_dims / num_heads is {head_dims}, rotary positions need a multiple of 4.",
        )
        extra = [name for name in ("class_token", "pre_norm", "final_norm") if getattr(self, name)]
        self._require(not extra, f"{', '.join(extra)} must be false with rotary positions.")

    @property
    def grid_side(self) -> int:
        """The number of patches along each side; pixels past the last whole patch are ignored."""
        return self.image_size // self.patch_size

    @property
    def num_feature_layers(self) -> int:
        """The number of layers that run before the patch features are taken."""
        return self.feature_layer % (self.num_layers + 1)


@dataclass(frozen=True)
class ConnectorConfig(Config):
    """The sizes of a connector, which turns patch features into visual tokens.

    Source: MM1, "Model Architecture Ablations" (vision-language connector).
    """

    type: ConnectorType
    num_visual_tokens: int | None  # per view, a perfect square; null with merge_size
    input_dims: int  # width of the image encoder
    output_dims: int  # width of the decoder
    hidden_dims: int = 0  # width of the convolutions, or of the attention
    num_blocks: int = 0  # C-Abstractor: RegStage blocks on each side of the pooling
    num_readout_layers: int = 1  # C-Abstractor: linear layers of the MLP at the end, with SiLU between them
    position_grid: int | None = (
        None  # C-Abstractor: side of the grid of learned positions; null means no positions
    )
    pre_norm: bool = False  # C-Abstractor: LayerNorm on the patch features
    position_antialias: bool = False  # C-Abstractor: smooth the positions when the grid shrinks
    num_extra_tokens: int = 0  # C-Abstractor: learned tokens after the visual ones
    merge_size: int = (
        0  # C-Abstractor: side of the squares of patches merged into one token, instead of pooling
    )
    row_end: bool = False  # C-Abstractor: a learned vector that may end a row of visual tokens
    num_heads: int = 1  # of attention pooling

    def __post_init__(self) -> None:
        self._require_positive("input_dims", "output_dims", "num_heads")
        self._check_num_visual_tokens()
        convolutions = ("c_abstractor", "c_abstractor_pair")
        self._require(
            0 <= self.num_blocks <= MOST_LAYERS,
            f"num_blocks is {self.num_blocks}, expected 0 to {MOST_LAYERS}.",
        )
        self._require(
            self.num_extra_tokens >= 0, f"num_extra_tokens is {self.num_extra_tokens}, expected 0 or more."
        )
        self._require(
            self.type == "c_abstractor" or not (self.num_extra_tokens or self.row_end),
            "num_extra_tokens and row_end are for the c_abstractor only.",
        )
        self._require(
            1 <= self.num_readout_layers <= 3,
            f"num_readout_layers is {self.num_readout_layers}, expected 1 to 3.",
        )
        self._require(
            self.position_grid is None or self.position_grid > 0,
            f"position_grid is {self.position_grid}, expected more than 0 or null.",
        )
        if self.type in convolutions and self.num_blocks:
            narrow = min(self.input_dims, self.hidden_dims)
            self._require(
                narrow > 2,
                f"input_dims and hidden_dims are {self.input_dims} and {self.hidden_dims}, "
                "expected at least 3: squeeze-excite takes a quarter.",
            )
        needs_width = self.type == "attention_pool" or (self.type in convolutions and self.num_blocks)
        if needs_width:
            self._require_positive("hidden_dims")
            self._require(
                self.hidden_dims % self.num_heads == 0,
                f"hidden_dims is {self.hidden_dims}, not a multiple of num_heads {self.num_heads}.",
            )

    def _check_num_visual_tokens(self) -> None:
        if self.merge_size:
            self._require(
                self.type == "c_abstractor" and self.merge_size > 1 and self.num_visual_tokens is None,
                "merge_size is for a c_abstractor whose num_visual_tokens is null, and at least 2.",
            )
            self._require(self.num_blocks > 0, "merge_size needs num_blocks above 0.")
            return
        self._require(
            self.num_visual_tokens is not None, "num_visual_tokens is null; give a number or merge_size."
        )
        self._require_positive("num_visual_tokens")
        side = self.side
        self._require(
            side * side == self.num_visual_tokens,
            f"num_visual_tokens is {self.num_visual_tokens}, not a perfect square; "
            f"the nearest are {side * side} and {(side + 1) ** 2}.",
        )

    @property
    def side(self) -> int:
        """The number of visual tokens along each side of a view, or 0 if it depends on the view's size."""
        return math.isqrt(self.num_visual_tokens or 0)

    @property
    def views_at_once(self) -> int:
        """The number of views that become visual tokens together; the pair reads four quadrants and the whole."""
        return 5 if self.type == "c_abstractor_pair" else 1

    def num_tokens(self, height: int, width: int) -> int:
        """Return the number of visual tokens of ``views_at_once`` views of ``height`` x ``width`` patches each."""
        if self.merge_size:
            return (height // self.merge_size) * (width // self.merge_size) + self.num_extra_tokens
        connectors = 2 if self.type == "c_abstractor_pair" else 1
        return connectors * (self.num_visual_tokens or 0) + self.num_extra_tokens


@dataclass(frozen=True)
class DecoderConfig(Config):
    """The sizes of MM1's decoder, dense or sparse. The shapes are ours, since the paper gives only parameter counts.

    Source: MM1, "Model Architecture Ablations" and "Scaling via Mixture-of-Experts".
    """

    vocab_size: int
    hidden_dims: int
    feed_forward_dims: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dims: int
    max_positions: int  # the context, in tokens
    rope_theta: float
    norm_eps: float
    tied_head: bool
    model_type: Literal["mm1_decoder"] = "mm1_decoder"
    num_experts: int = 0  # in each sparse layer; 0 means a dense decoder
    sparse_every: int = 0  # the last of every this many layers is sparse
    load_balance_weight: float = 0.01
    router_z_weight: float = 0.001
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None  # None means 1 / sqrt(head_dims)
    logits_multiplier: float = 1.0

    def __post_init__(self) -> None:
        self._require_positive(
            "vocab_size",
            "hidden_dims",
            "feed_forward_dims",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dims",
            "max_positions",
            "rope_theta",
            "norm_eps",
        )
        self._require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads is {self.num_heads}, not a multiple of num_kv_heads {self.num_kv_heads}.",
        )
        self._require(
            self.num_layers <= MOST_LAYERS,
            f"num_layers is {self.num_layers}, expected at most {MOST_LAYERS}.",
        )
        self._require(self.head_dims % 2 == 0, f"head_dims is {self.head_dims}, RoPE needs an even number.")
        self._require(
            self.num_experts == 0 or self.num_experts >= 2,
            f"num_experts is {self.num_experts}; top-2 routing needs at least 2 (0: dense).",
        )
        self._require(
            (self.num_experts == 0) == (self.sparse_every == 0),
            f"num_experts is {self.num_experts} and sparse_every is {self.sparse_every}; give both or neither.",
        )
        self._require(
            0 <= self.sparse_every <= self.num_layers,
            f"sparse_every is {self.sparse_every}, expected 1 to {self.num_layers} for {self.num_layers} layers.",
        )

    def is_sparse(self, layer: int) -> bool:
        """Tell whether a layer, counted from 0, has experts: the last of every ``sparse_every`` layers has."""
        return self.num_experts > 0 and (layer + 1) % self.sparse_every == 0


@dataclass(frozen=True)
class MlxLmDecoderConfig:
    """The sizes of a decoder of mlx-lm, which is found by its ``model_type``; ``values`` go to its ``ModelArgs``."""

    values: dict[str, Any]

    def __post_init__(self) -> None:
        for key, kind in (("model_type", str), ("hidden_size", int), ("vocab_size", int)):
            if key not in self.values:
                raise ConfigError(f"text_config lacks {key}.")
            value = typed("text_config", key, self.values[key], kind)
            if kind is int and not 0 < value < LARGEST:
                raise ConfigError(f"text_config.{key} is {value}, expected more than 0 and less than 2^31.")
        for key in ("rope_theta", "rms_norm_eps"):
            value = self.values.get(key)
            if value is not None and typed("text_config", key, value, float) <= 0:
                raise ConfigError(f"text_config.{key} is {value}, expected more than 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return the values as they are in config.json."""
        return dict(self.values)

    @property
    def model_type(self) -> str:
        """The name of the architecture in mlx-lm."""
        return self.values["model_type"]

    @property
    def hidden_dims(self) -> int:
        """The width of the decoder."""
        return self.values["hidden_size"]

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self.values["vocab_size"]

    @property
    def max_positions(self) -> int | None:
        """The context in tokens, or None if the values do not give it."""
        return self.values.get("max_position_embeddings")


@dataclass(frozen=True)
class PromptConfig(Config):
    """How prompts are written, besides the tokenizer's chat template."""

    cut_at: tuple[
        str, ...
    ] = ()  # texts before and after which a prompt is cut; pieces are tokenised separately
    after_image: str = ""  # text after a picture that has no place in the prompt
    image_part: dict | None = None  # a picture's part of a message, if the chat template writes its token
    row_token_id: int | None = None  # a text token before a picture and between its rows of visual tokens
    system: str | None = None  # the default system message


@dataclass(frozen=True)
class MM1Config(Config):
    """The ``config.json`` of a model folder."""

    vision_config: ImageEncoderConfig
    connector_config: ConnectorConfig
    text_config: DecoderConfig | MlxLmDecoderConfig
    image_config: ImageConfig
    image_token_id: int
    eos_token_id: int | tuple[int, ...] | None = None
    prompt_config: PromptConfig = PromptConfig()
    untrained: tuple[str, ...] = ()  # parts with random weights, with which the model cannot answer yet
    model_type: Literal["mm1"] = "mm1"
    quantization: dict | None = None
    quantization_config: dict | None = None

    def __post_init__(self) -> None:
        encoder, connector, decoder = self.vision_config, self.connector_config, self.text_config
        self._require(
            connector.input_dims == encoder.hidden_dims,
            f"connector_config.input_dims is {connector.input_dims}, "
            f"but vision_config.hidden_dims is {encoder.hidden_dims}.",
        )
        self._require(
            connector.output_dims == decoder.hidden_dims,
            f"connector_config.output_dims is {connector.output_dims}, "
            f"but the decoder is {decoder.hidden_dims} wide.",
        )
        self._require(
            self.image_config.image_size >= encoder.patch_size,
            f"image_config.image_size is {self.image_config.image_size}, smaller than one patch of "
            f"{encoder.patch_size}.",
        )
        self._require(
            0 <= self.image_token_id < decoder.vocab_size,
            f"image_token_id is {self.image_token_id}, outside the vocabulary of {decoder.vocab_size}.",
        )
        row = self.prompt_config.row_token_id
        self._require(
            row is None or 0 <= row < decoder.vocab_size,
            f"prompt_config.row_token_id is {row}, outside the vocabulary of {decoder.vocab_size}.",
        )
        self._check_views()
        ends = self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)
        self._require(
            all(end is None or 0 <= end < decoder.vocab_size for end in ends),
            f"eos_token_id is {self.eos_token_id}, outside the vocabulary of {decoder.vocab_size}.",
        )

    def _check_views(self) -> None:
        """Refuse a connector that does not fit the way pictures are cut into views."""
        encoder, connector, image = self.vision_config, self.connector_config, self.image_config
        self._require(
            connector.type != "c_abstractor_pair" or image.sub_images == "quadrants",
            "a c_abstractor_pair reads four quadrants and the whole: image_config.sub_images must be quadrants.",
        )
        self._require(
            not image.unpad or connector.row_end,
            "image_config.unpad needs connector_config.row_end.",
        )
        mapped = image.sub_images == "anyres" or self.prompt_config.row_token_id is not None
        self._require(
            not mapped or not connector.num_extra_tokens,
            "visual tokens that stand in rows (anyres, row_token_id) leave num_extra_tokens no place.",
        )
        if image.resize == "smart":
            step = encoder.patch_size * math.lcm(max(connector.merge_size, 1), encoder.patch_block)
            self._require(
                connector.merge_size > 0 and image.size_multiple % step == 0,
                f"resize smart needs a connector with merge_size and a size_multiple of {step} pixels, "
                f"found {image.size_multiple}.",
            )
        else:
            self._require(
                not connector.merge_size, "connector_config.merge_size needs image_config.resize smart."
            )

    @property
    def patch_grid(self) -> tuple[int, int]:
        """The number of patches along the height and the width of a view, if all views have one size."""
        side = self.image_config.image_size // self.vision_config.patch_size
        return side, side

    @classmethod
    def from_dict(cls, values: Any) -> MM1Config:
        """Build a configuration from parsed JSON.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type or is out of range.
        """
        if isinstance(values, dict) and isinstance(values.get("text_config"), dict):
            text = values["text_config"]
            ours = text.get("model_type", "mm1_decoder") == "mm1_decoder"
            values = values | {
                "text_config": DecoderConfig.from_dict(text) if ours else MlxLmDecoderConfig(text)
            }
        return super().from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values, without those that have their default."""
        nested = {"vision_config", "connector_config", "text_config", "image_config", "prompt_config"}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        plain["model_type"] = self.model_type
        return {k: v.to_dict() if k in nested else v for k, v in plain.items()}

"""What a model is made of: frozen dataclasses, read from and written to ``config.json``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from mm1_mlx.errors import ConfigError
from mm1_mlx.image_config import ImageConfig
from mm1_mlx.strict import LARGEST, Config, typed

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
ConnectorType = Literal["c_abstractor", "c_abstractor_pair", "average_pool", "attention_pool"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageEncoderConfig(Config):
    """A ViT: CLIP's, SigLIP's or Qwen2-VL's flavour is a matter of these switches.

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
    class_token: bool  # CLIP has one; it is dropped from the patch features
    pre_norm: bool  # CLIP normalises before the first layer
    final_norm: bool  # normalise the features that are handed on
    patch_bias: bool
    feature_layer: int = -1  # which hidden state: 0 before the first layer, -1 after the last
    positions: Literal["learned", "rotary"] = "learned"  # rotary: 2-D, for pictures of any size
    temporal_patch_size: int = 1  # frames embedded together; a still picture repeats itself
    patch_block: int = 1  # patches come block by block of this side; 1: row by row

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
        """Patches along each side; pixels past the last whole patch are not seen."""
        return self.image_size // self.patch_size

    @property
    def num_feature_layers(self) -> int:
        """How many layers run before the features are taken."""
        return self.feature_layer % (self.num_layers + 1)


@dataclass(frozen=True)
class ConnectorConfig(Config):
    """From patch features to visual tokens.

    Source: MM1, "Model Architecture Ablations" (vision-language connector).
    """

    type: ConnectorType
    num_visual_tokens: int | None  # per view, a perfect square; null: one for every merged square of patches
    input_dims: int  # width of the image encoder
    output_dims: int  # width of the decoder
    hidden_dims: int = 0  # width inside: convolutions, or attention
    num_blocks: int = 0  # C-Abstractor: RegStage blocks on each side of the pooling
    num_readout_layers: int = 1  # C-Abstractor: linear layers of the MLP at the end, SiLU between
    position_grid: int | None = None  # C-Abstractor: side of the learned positions; none if null
    pre_norm: bool = False  # C-Abstractor: LayerNorm on the patch features
    position_antialias: bool = False  # C-Abstractor: how positions shrink to a smaller grid
    num_extra_tokens: int = 0  # C-Abstractor: learned tokens after the visual ones
    merge_size: int = 0  # C-Abstractor: squares of patches merged into one token, in place of pooling
    row_end: bool = False  # C-Abstractor: a learned vector that may end a row of visual tokens
    num_heads: int = 1  # attention pooling

    def __post_init__(self) -> None:
        self._require_positive("input_dims", "output_dims", "num_heads")
        self._check_num_visual_tokens()
        convolutions = ("c_abstractor", "c_abstractor_pair")
        self._require(self.num_blocks >= 0, f"num_blocks is {self.num_blocks}, expected 0 or more.")
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
        side = math.isqrt(self.num_visual_tokens)
        self._require(
            side * side == self.num_visual_tokens,
            f"num_visual_tokens is {self.num_visual_tokens}, not a perfect square; "
            f"the nearest are {side * side} and {(side + 1) ** 2}.",
        )

    @property
    def side(self) -> int:
        """Visual tokens along each side of a view, where their number is fixed."""
        return math.isqrt(self.num_visual_tokens)

    @property
    def views_at_once(self) -> int:
        """Views that become visual tokens together: the pair reads four quadrants and the whole."""
        return 5 if self.type == "c_abstractor_pair" else 1

    def num_tokens(self, height: int, width: int) -> int:
        """Visual tokens made of ``views_at_once`` views of ``height`` x ``width`` patches each."""
        if self.merge_size:
            return (height // self.merge_size) * (width // self.merge_size) + self.num_extra_tokens
        connectors = 2 if self.type == "c_abstractor_pair" else 1
        return connectors * self.num_visual_tokens + self.num_extra_tokens


@dataclass(frozen=True)
class DecoderConfig(Config):
    """MM1's decoder, dense or sparse. The shapes are ours: the paper gives parameter counts only.

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
    num_experts: int = 0  # 0: dense
    sparse_every: int = 0  # every k-th layer is sparse
    load_balance_weight: float = 0.01
    router_z_weight: float = 0.001
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None  # in place of 1 / sqrt(head_dims)
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
        """Whether layer ``layer`` (from 0) holds experts: the last of every ``sparse_every``."""
        return self.num_experts > 0 and (layer + 1) % self.sparse_every == 0


@dataclass(frozen=True)
class MlxLmDecoderConfig:
    """A decoder of mlx-lm's, by its ``model_type``; ``values`` go to its own ``ModelArgs``."""

    values: dict[str, Any]

    def __post_init__(self) -> None:
        for key, kind in (("model_type", str), ("hidden_size", int), ("vocab_size", int)):
            if key not in self.values:
                raise ConfigError(f"text_config lacks {key}.")
            value = typed("text_config", key, self.values[key], kind)
            if kind is int and not 0 < value < LARGEST:
                raise ConfigError(f"text_config.{key} is {value}, expected more than 0 and less than 2^31.")

    def to_dict(self) -> dict[str, Any]:
        return dict(self.values)

    @property
    def model_type(self) -> str:
        return self.values["model_type"]

    @property
    def hidden_dims(self) -> int:
        return self.values["hidden_size"]

    @property
    def vocab_size(self) -> int:
        return self.values["vocab_size"]

    @property
    def max_positions(self) -> int | None:
        return self.values.get("max_position_embeddings")


@dataclass(frozen=True)
class PromptConfig(Config):
    """How prompts are written, beyond what the tokenizer's chat template says."""

    cut_at: tuple[str, ...] = ()  # a prompt is cut before and after these; pieces are tokenised on their own
    after_image: str = ""  # text after a picture that the prompt gives no place
    image_part: dict | None = (
        None  # what the chat template takes for a picture, if it writes the token itself
    )
    row_token_id: int | None = None  # a text token before a picture and between its rows of visual tokens
    system: str | None = None  # the system message where none is given


@dataclass(frozen=True)
class MM1Config(Config):
    """A whole model folder's ``config.json``."""

    vision_config: ImageEncoderConfig
    connector_config: ConnectorConfig
    text_config: DecoderConfig | MlxLmDecoderConfig
    image_config: ImageConfig
    image_token_id: int
    eos_token_id: int | tuple[int, ...] | None = None
    prompt_config: PromptConfig = PromptConfig()
    untrained: tuple[str, ...] = ()  # parts with fresh random weights: the model cannot answer yet
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
        """The connector must fit the way pictures are cut into views."""
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
        """Patches along height and width of a view, where views have one size."""
        side = self.image_config.image_size // self.vision_config.patch_size
        return side, side

    @classmethod
    def from_dict(cls, values: Any) -> MM1Config:
        if isinstance(values, dict) and isinstance(values.get("text_config"), dict):
            text = values["text_config"]
            ours = text.get("model_type", "mm1_decoder") == "mm1_decoder"
            values = values | {
                "text_config": DecoderConfig.from_dict(text) if ours else MlxLmDecoderConfig(text)
            }
        return super().from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; what stands at its default is left out."""
        nested = {"vision_config", "connector_config", "text_config", "image_config", "prompt_config"}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        plain["model_type"] = self.model_type
        return {k: v.to_dict() if k in nested else v for k, v in plain.items()}

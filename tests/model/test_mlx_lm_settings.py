"""No decoder of mlx-lm reads a configuration otherwise than its publisher: what it leaves out is refused."""

import dataclasses
import importlib

import pytest
from halves import SIZES
from mlx_lm.utils import _get_classes
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mm1_mlx.errors import ConfigError
from mm1_mlx.model.mlx_lm_kinds import KINDS
from mm1_mlx.model.mlx_lm_parts import build_decoder, check_settings
from mm1_mlx.model.mlx_lm_settings import NEUTRAL, require_honoured

# Settings that mlx-lm's decoders leave out and that change no answer, or that conversion handles otherwise.
HARMLESS = {
    *("initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout"),
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "pretraining_tp"),
    *(
        "num_nextn_predict_layers",
        "mtp_layer_types",
        "mtp_mlp_layer_types",
    ),  # heads that guess further tokens
    *("tie_word_embeddings", "num_local_experts", "head_dim"),  # found by the weights
    *("rope_parameters", "sliding_window", "use_sliding_window", "layer_types", "max_window_layers"),
    "_sliding_window_pattern",
    *("max_position_embeddings", "mlp_layer_types", "per_layer_config"),
}
ROPE = {"rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
REFUSED = [
    ("mistral", {"sliding_window": 16}, "sliding_window is 16"),
    ("mixtral", {"sliding_window": 16}, "sliding_window is 16"),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": True}, "sliding_window is 16"),
    ("qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, "sliding_window is 16"),
    ("qwen2", {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}, "sliding_window"),
    ("smollm3", {"sliding_window": 16, "use_sliding_window": True}, "sliding_window is 16"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("qwen2", {"mlp_bias": True}, "mlp_bias is True"),
    ("llama", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
    ("llama", {"logit_scale": 0.0625}, "logit_scale is 0.0625"),
    ("llama", {"residual_multiplier": 0.22}, "residual_multiplier is 0.22"),
    ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0"),
    ("llama", {"attention_multiplier": 0.1}, "attention_multiplier is 0.1"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("qwen2", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}, "turns whole heads"),
    ("llama", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ("gemma3_text", {"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has windows in other"),
    ("mixtral", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is of type 'linear'"),
    ("llama", {"rope_scaling": {"rope_type": "no such", "factor": 2.0}}, "Unsupported RoPE type no such"),
    ("llama", {"rope_scaling": YARN | {"attention_factor": 1.3}}, "attention_factor"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "without original_max_position"),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}, "short_factor"),
]  # fmt: skip
TAKEN = [
    ("mistral", {"sliding_window": 512}),  # the whole context
    ("mistral", {"sliding_window": None, "hidden_act": "silu"}),
    ("mistral", {"sliding_window": 16, "max_position_embeddings": 16}),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": False}),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}),
    ("llama", {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}),
    ("llama", {"rope_scaling": YARN}),
    ("gemma3_text", {"layer_types": ["sliding_attention"] * 2, "hidden_activation": "gelu_pytorch_tanh"}),
]


def accepted():
    """Yield the kinds of decoders, and the dataclass of settings that each reads."""
    for kind in KINDS:
        yield kind, importlib.import_module(f"mlx_lm.models.{kind}").ModelArgs


def test_the_publishers_own_settings_are_taken_but_for_windows(subtests):
    for kind, args_class in accepted():
        if kind not in CONFIG_MAPPING or "text_config" in {
            field.name for field in dataclasses.fields(args_class)
        }:
            continue
        with subtests.test(kind):
            values = CONFIG_MAPPING[kind]().to_dict()
            require_honoured({key: values[key] for key in NEUTRAL if key in values}, args_class)


def test_every_setting_that_transformers_has_and_mlx_lm_lacks_is_known(subtests):
    everywhere = set(PretrainedConfig().to_dict())
    for kind, args_class in accepted():
        if kind not in (
            "gemma3_text",
            "llama",
            "ministral3",
            "mixtral",
            "qwen2",
            "qwen3",
            "qwen3_moe",
            "smollm3",
        ):
            continue
        fields = {field.name for field in dataclasses.fields(args_class)}
        with subtests.test(kind):
            values = CONFIG_MAPPING[kind]().to_dict()
            unknown = set(values) - fields - everywhere - HARMLESS - set(NEUTRAL)
            assert not unknown
            require_honoured(values, args_class)


def test_a_setting_that_mlx_lm_would_leave_out_is_refused(subtests):
    for kind, values, told in REFUSED:
        with subtests.test(f"{kind} {values}"), pytest.raises(ConfigError, match=told):
            build_decoder(SIZES | {"model_type": kind} | values)


def test_settings_that_change_nothing_or_are_read_are_taken(subtests):
    for kind, values in TAKEN:
        with subtests.test(f"{kind} {values}"):
            values = SIZES | {"model_type": kind} | values
            require_honoured(values, _get_classes(values)[1])


def test_the_section_is_named():
    with pytest.raises(ConfigError, match=r"a/config\.json: text_config\.hidden_act is 'relu'"):
        check_settings({"model_type": "llama", "hidden_act": "relu"}, "a/config.json: text_config")


def test_a_module_that_ends_the_process_is_refused():
    with pytest.raises(ConfigError, match="'olmo'"):
        build_decoder(SIZES | {"model_type": "olmo"})

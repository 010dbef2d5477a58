"""Sizes of tiny decoders of mlx-lm, of every kind: values that most kinds read, and those that one kind reads alone."""

import importlib
from dataclasses import MISSING, fields
from typing import Any

from mm1_mlx.model.mlx_lm_settings import NEUTRAL

VOCABULARY = 96
FULL = ["full_attention", "full_attention"]
VALUES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "rope_theta": 1000.0,
    "tie_word_embeddings": True,
    "sliding_window": 64,
    "sliding_window_pattern": 2,
    "layer_types": FULL,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "rope_scaling": None,
    # names of GPT's kind
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "n_inner": 64,
    "n_ctx": 64,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "mlp_hidden_size": 64,
    "embedding_size": VOCABULARY,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.5,
    "use_parallel_residual": True,
    "use_qkv_bias": False,
    "use_bias": False,
    "qk_norm": False,
    # factors and limits
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.35,
    "residual_multiplier": 0.7,
    "scale_emb": 3.0,
    "dim_model_base": 32,
    "scale_depth": 1.4,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "shared_expert_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "n_group": 1,
    "topk_group": 1,
    # latent attention and states
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "state_size": 8,
    "conv_kernel": 4,
    "expand": 2,
    "time_step_rank": 4,
    "use_conv_bias": True,
}

MIXED = ["sliding_attention", "full_attention"]
ROPE = {"rope_theta": 1000.0, "rope_type": "default"}
YARN = {
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "type": "yarn",
    "rope_type": "yarn",
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LINEAR = {
    "kda_layers": [1],
    "full_attn_layers": [2],
    "num_heads": 4,
    "head_dim": 8,
    "short_conv_kernel_size": 4,
}
SPECIAL = {
    "afm7": {"hidden_dim": 32, "num_layers": 4, "num_kv_reuse_layers": 2, "num_heads": 4, "num_kv_heads": 2},
    "baichuan_m1": {"sliding_window_layers": [0], "conv_window": 2, "tie_word_embeddings": False},
    "bailing_moe_linear": {
        "num_shared_experts": 1,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "n_group": 1,
    },
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1000.0},
    },
    "deepseek_v2": {"rope_scaling": YARN, "topk_method": "greedy"},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"num_shared_experts": 1, "is_moe_layer": [False, True], "layer_types": MIXED},
    "gemma4_text": {
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "layer_types": MIXED,
        "vocab_size_per_layer_input": VOCABULARY,
        "rope_parameters": None,
        "use_double_wide_mlp": False,
    },
    "glm_moe_dsa": {"rope_parameters": ROPE, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 4},
    "gpt_oss": {"layer_types": MIXED},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 16,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_proj_bias": False,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "hunyuan": {
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"factor": 1.0, "type": "dynamic", "alpha": 1000.0, "beta_fast": 32},
    },
    "jamba": {
        "layers_block_type": ["mamba", "attention"],
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
    },
    "kimi_k3": {
        "hidden_act": "situ",
        "activation_situ_beta": 1.0,
        "linear_attn_config": LINEAR,
        "num_experts": 4,
        "num_experts_per_token": 2,
    },
    "kimi_linear": {"linear_attn_config": LINEAR, "model_max_length": 64, "num_shared_experts": 1},
    "lfm2": {
        "layer_types": ["conv", "full_attention"],
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
        "conv_bias": False,
        "conv_L_cache": 3,
        "num_dense_layers": 1,
        "use_expert_bias": True,
    },
    "lille-130m": {"block_size": 64, "n_kv_heads": 2, "n_embd": 192},
    "longcat_flash": {
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "ffn_hidden_size": 64,
        "moe_topk": 2,
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 2,
        "num_layers": 2,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "mamba2": {"num_heads": 8, "n_groups": 1, "time_step_limit": [0.0, 100.0]},
    "mellum": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}, "layer_types": MIXED},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1],
        "moe_layer_freq": [0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": 8,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 1000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "minicpm3": {
        "rope_scaling": YARN | {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    },
    "ministral3": {
        "rope_parameters": ROPE | {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 32}
    },
    "mistral4": {"rope_parameters": YARN | ROPE | {"rope_type": "yarn", "llama_4_scaling_beta": 0.1}},
    "nemotron-nas": {
        "block_configs": [
            {
                "attention": {"no_op": False, "replace_with_linear": False, "n_heads_in_group": 2},
                "ffn": {"no_op": False, "replace_with_linear": False, "ffn_mult": 2.0},
            }
        ]
        * 2,
    },
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "*", "-"],
        "num_hidden_layers": 3,
        "layer_types": None,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "n_groups": 1,
    },
    "olmo3": {"layer_types": MIXED},
}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}
SPECIAL |= {
    "openelm": {
        "num_transformer_layers": 2,
        "model_dim": 32,
        "ffn_dim_divisor": 8,
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 2.0],
    },
    "phixtral": {"num_vocab": VOCABULARY, "model_dim": 32, "num_heads": 4, "num_layers": 2, "rotary_dim": 4},
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 8},
    "qwen3_5": LINEAR_ATTENTION,
    "qwen3_5_moe": LINEAR_ATTENTION,
    "qwen3_next": LINEAR_ATTENTION,
    "recurrent_gemma": {
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": 64,
        "block_types": ["recurrent", "attention"],
    },
    "spark2_5": {
        "hidden_act": "gelu",
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
    },
}
SPECIAL["llama4_text"] = {"no_rope_layers": [0, 1]}
SPECIAL["longcat_flash_ngram"] = SPECIAL["longcat_flash"]
OTHERS = {
    "int": 4,
    "float": 1.0,
    "bool": False,
    "str": "silu",
    "List": [0, 1],
}  # by type, where a kind has more values


def values_of(kind: str) -> dict[str, Any]:
    """Return the configuration of a tiny decoder."""
    values = VALUES | {"model_type": kind} | SPECIAL.get(kind, {})
    args = importlib.import_module(f"mlx_lm.models.{kind}").ModelArgs
    known = {field.name for field in fields(args)}
    if "text_config" in known:  # the decoder inside reads them
        values = {
            name: value for name, value in values.items() if name == "hidden_act" or name not in NEUTRAL
        }
    else:
        values = {name: value for name, value in values.items() if name in known or name == "model_type"}
    for field in fields(args):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            kind_of_value = next((name for name in OTHERS if name in str(field.type)), None)
            if kind_of_value is not None:
                values[field.name] = OTHERS[kind_of_value]
    return values

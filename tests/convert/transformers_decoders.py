"""Tiny decoders of transformers' with random weights, of every kind that mlx-lm has too, and how far mlx-lm's logits
are from theirs.
"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np

from convert.sources.assemble import _decoder
from mm1_mlx.errors import MM1Error
from mm1_mlx.model.mlx_lm_parts import build_decoder

LENGTH, VOCABULARY = 24, 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # names of GPT's kind
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 4,
    "n_positions": 128,
    "n_inner": 128,
    "d_model": 32,
    "n_layers": 4,
    "n_heads": 4,
    "max_seq_len": 128,
    "rotary_dim": 4,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention and states
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "state_size": 8,
    "conv_kernel": 4,
    "time_step_rank": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
    "attention_window_size": 64,
    "query_pre_attn_scalar": 8,
    "global_head_dim": 8,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCABULARY,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_d_ssm": 64,
    "ssm_state_size": 8,
    "n_groups": 1,
}
ALL_HEADS = {"num_key_value_heads": 4}
NO_WINDOW = {"sliding_window": None}
MIXED = ["conv", "full_attention"] * 2
SPECIAL = {
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": ALL_HEADS,
    "deepseek_v3": ALL_HEADS,
    "deepseek_v32": ALL_HEADS,
    "gemma3_text": {"num_hidden_layers": 6},
    "glm4_moe_lite": ALL_HEADS,
    "glm_moe_dsa": ALL_HEADS,
    "gpt_neox": {"intermediate_size": 128},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2": {"layer_types": MIXED},
    "lfm2_moe": {"layer_types": MIXED, "num_dense_layers": 1},
    "ministral3": NO_WINDOW,
    "minicpm3": ALL_HEADS,
    "mistral": NO_WINDOW,
    "mixtral": NO_WINDOW,
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": NO_WINDOW,
    "qwen3_next": {"layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    "recurrent_gemma": {"num_key_value_heads": 1},
    "starcoder2": NO_WINDOW,
}
AGREE = (
    "afmoe", "apertus", "cohere", "cohere2", "dbrx", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5", "exaone",
    "exaone4", "exaone_moe", "falcon_h1", "falcon_mamba", "gemma4_text", "glm4", "glm4_moe", "glm4_moe_lite",
    "glm_moe_dsa", "gptj", "granite", "granitemoe", "granitemoehybrid", "helium", "hunyuan_v1_dense", "internlm3",
    "iquestcoder", "laguna", "lfm2", "lfm2_moe", "llama", "mamba", "mellum", "ministral3", "mistral", "mixtral",
    "nemotron", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next",
    "seed_oss", "smollm3", "stablelm",
)  # fmt: skip
# mlx-lm computes GELU by another formula than the publisher's, or a state in another order.
CLOSE = ("gemma", "gemma3_text", "gpt_bigcode", "gpt_neox", "nemotron_h", "recurrent_gemma", "starcoder2")
REFUSED = {  # by kind: how the message tells what mlx-lm does otherwise
    "deepseek_v2": "does not fit mlx-lm's deepseek_v2",
    "ernie4_5_moe": "routes experts without the correction",
    "gemma2": "attends to all tokens before",
    "glm": "partial_rotary_factor is 0.5, which mlx-lm's glm does not compute with",
    "gpt2": "cannot load the decoder",
    "gpt_oss": "of yarn, which mlx-lm does not read",
    "jamba": "computes other logits",
    "llama4_text": "cannot load the decoder",
    "minicpm3": "does not fit mlx-lm's minicpm3",
    "minimax": "does not fit mlx-lm's minimax",
    "nanochat": "cannot load the decoder",
    "olmo_hybrid": "cannot load the decoder",
    "phimoe": "attends to all tokens before",
}


def save_decoder(kind, folder):
    """Save a random decoder of transformers' and return ids with its logits for them."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config_class = CONFIG_MAPPING[kind]
    known = {*config_class().to_dict(), *config_class.attribute_map}
    values = {name: value for name, value in SIZES.items() if name in known}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config_class(**values | SPECIAL.get(kind, {})), dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape)
            value.copy_(value + 0.2 * noise if value.ndim < 2 else noise * value.shape[-1] ** -0.5)
        ids = torch.randint(3, VOCABULARY, (1, LENGTH))
        logits = model(ids).logits[0]
    model.save_pretrained(folder)
    return ids.numpy(), logits.numpy()


def differ(folder, ids, expected):
    """Return how far the logits of mlx-lm's decoder of a folder are from those expected, as a share of the largest."""
    config, part, _ = _decoder(folder)
    decoder = build_decoder(config.values)
    arrays = ((name.removeprefix("decoder."), part.tensors.read(name)) for name in part.table.moves)
    decoder.load_weights([(name, mx.array(array)) for name, array in arrays], strict=True)
    found = np.array(decoder(mx.array(ids))[0].astype(mx.float32))
    return abs(found - expected).max() / abs(expected).max()


def tell(kind):
    """Print a kind and how far it is, or why it is refused, on one line."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = f"{differ(Path(folder), *save_decoder(kind, folder)):.1e}"
        except MM1Error as error:
            result = str(error)
    print(kind, result, flush=True)


if __name__ == "__main__":
    import transformers

    transformers.logging.set_verbosity_error()
    for kind in sys.argv[1:] or (*AGREE, *CLOSE, *REFUSED):
        tell(kind)

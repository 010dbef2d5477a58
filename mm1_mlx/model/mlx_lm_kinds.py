"""The kinds of mlx-lm's decoders that read pictures, and why others do not.

A kind is accepted where a tiny decoder with random weights gives the same logits for ids and for the rows of its table
that stand for them. ``tests/model/test_mlx_lm_kinds.py`` tries all of them; the list is that of mlx-lm 0.32.
"""

KINDS = (
    "afm7", "afmoe", "apertus", "baichuan_m1", "bailing_hybrid", "bailing_moe", "bailing_moe_linear",
    "bailing_moe_v3", "cohere", "cohere2", "dbrx", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32",
    "deepseek_v41", "dots1", "ernie4_5", "exaone", "exaone4", "exaone_moe", "falcon_h1", "gear",
    "gemma", "gemma2", "gemma3_text", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa",
    "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid", "helium",
    "hunyuan", "hunyuan_v1_dense", "internlm2", "internlm3", "iquestloopcoder", "kimi_k3",
    "kimi_linear", "Klear", "laguna", "lfm2", "lfm2_moe", "lille-130m", "llama", "llama4_text", "longcat_flash",
    "mamba", "mamba2", "mellum", "mimo", "mimo_v2_flash", "minicpm", "minicpm3", "minimax", "ministral3",
    "mistral4", "mixtral", "muse_glimmer", "nanbeige", "nanochat", "nemotron", "nemotron-nas", "nemotron_h",
    "olmo2", "olmo3", "olmo_hybrid", "olmoe", "openelm", "phi", "phi3", "phimoe", "phixtral",
    "plamo", "plamo2", "plamo3", "qwen", "qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5", "qwen3_5_moe",
    "qwen3_moe", "qwen3_next", "qwen3_vl", "recurrent_gemma", "rwkv7", "seed_oss", "smollm3", "spark2_5",
    "stablelm", "starcoder2", "step3p5", "talkie", "telechat3", "youtu_llm",
)  # fmt: skip

_PICTURES = "reads pictures itself; give the folder of its text decoder, or convert it by its own name"
_READ_PICTURES = (
    "gemma3", "gemma4", "kimi_k25", "kimi_vl", "lfm2-vl", "llama4", "minimax_m3_vl", "mistral3", "muse_spark",
    "pixtral", "qwen3_vl_moe",
)  # fmt: skip
REASONS = {
    "bitnet": "computes with a kernel that Metal alone has, and was not tried",
    "ernie4_5_moe": "routes experts without the correction that its publisher adds",
    "gemma3n": "looks ids up in further tables inside its layers",
    "jamba": "computes other logits than its publisher",
    "longcat_flash_ngram": "looks pieces of text up by their ids inside its layers",
    "olmo": "needs the package ai2-olmo",
    "phi3small": "wrote past its memory where it was tried",
    "prism_hadamard_qwen35": "is packed in a way of its own",
    **dict.fromkeys(_READ_PICTURES, _PICTURES),
}

"""PEFT's layout: written and read back the same, and read by PEFT itself beside the same decoder in PyTorch."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from small_models import SMALL
from tuned_models import LLAMA, compute_logits, make, make_trained, tuning

from mm1_mlx import export_peft, fuse_adapters, import_peft, load_adapters, remove_adapters
from mm1_mlx.errors import CheckpointError
from mm1_mlx.files.identity import model_identity
from mm1_mlx.tuning import save_adapters
from mm1_mlx.tuning.adapters import adapter_layers, tunings_of
from mm1_mlx.tuning.settings import PartTuning

OURS = replace(SMALL, text_config=replace(SMALL.text_config, max_positions=64))
HOWS = {"lora": PartTuning("lora", rank=4, scale=2.5), "dora": PartTuning("dora", rank=4, scale=2.0)}
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
IDS = [[1, 5, 40, 41, 7, 300]]


def export(folder, own=HOWS["lora"], config=LLAMA):
    """A tuned model, and its decoder's adapter in PEFT's layout."""
    model = make_trained(config, tuning(decoder=own))
    export_peft(model, folder, base_model="llama")
    return model


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def change_config(folder, **changes):
    (folder / "adapter_config.json").write_text(json.dumps(config_of(folder) | changes))


def refused(folder, *words, config=LLAMA):
    model = make(config)
    with pytest.raises(CheckpointError) as refusal:
        import_peft(model, folder)
    for word in words:
        assert word in str(refusal.value)
    assert not tunings_of(model) and not adapter_layers(model)


def in_transformers(model):
    """The small llama with the same weights, in PyTorch."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**LLAMA.text_config.values, attn_implementation="eager"))
    weights = {key: torch.tensor(np.array(value)) for key, value in tree_flatten(model.decoder.parameters())}
    theirs.load_state_dict(weights, strict=not LLAMA.text_config.values["tie_word_embeddings"])
    return theirs.eval()


@PEFT_WARNS
@pytest.mark.parametrize("own", HOWS.values(), ids=HOWS)
def test_peft_itself_computes_the_same_logits(own, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model = export(tmp_path / "peft", own)
    theirs = peft.PeftModel.from_pretrained(in_transformers(make(LLAMA)), tmp_path / "peft")
    with torch.no_grad():
        found = theirs(torch.tensor(IDS)).logits.numpy()
    ours = np.array(model.decoder(mx.array(IDS)))
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-4)
    assert np.abs(ours - np.array(make(LLAMA).decoder(mx.array(IDS)))).max() > 0.1


@PEFT_WARNS
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha / r", "alpha / sqrt(r)"])
def test_what_peft_itself_wrote_is_read(rslora, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], "use_rslora": rslora}
    theirs = peft.get_peft_model(
        in_transformers(make(LLAMA)), peft.LoraConfig(**options, init_lora_weights=False)
    )
    theirs.eval().save_pretrained(tmp_path / "peft")
    change_config(tmp_path / "peft", init_lora_weights=True)  # how PEFT writes what was trained
    model = make(LLAMA)
    found = import_peft(model, tmp_path / "peft")
    assert found.decoder.keys == ("mlp.down_proj", "self_attn.q_proj")
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(np.array(model.decoder(mx.array(IDS))), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("own", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize("config", [OURS, LLAMA], ids=["our decoder", "llama"])
def test_exported_then_imported_the_logits_are_the_same(config, own, tmp_path):
    model = export(tmp_path / "peft", own, config)
    again = make(config)
    import_peft(again, tmp_path / "peft")
    np.testing.assert_allclose(compute_logits(again), compute_logits(model), rtol=0, atol=1e-6)


def test_alpha_is_scale_times_rank_and_names_are_those_of_transformers(tmp_path):
    export(tmp_path / "ours", PartTuning("lora", rank=4, scale=2.5, dropout=0.1, keys=("*.q_proj",)), OURS)
    found = config_of(tmp_path / "ours")
    assert (found["r"], found["lora_alpha"], found["lora_dropout"], found["use_dora"]) == (4, 10, 0.1, False)
    assert found["target_modules"] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    weights = mx.load(str(tmp_path / "ours" / "adapter_model.safetensors"))
    shapes = {key: value.shape for key, value in weights.items() if "layers.0." in key}
    start = "base_model.model.model.layers.0.self_attn.q_proj"
    assert shapes == {f"{start}.lora_A.weight": (4, 64), f"{start}.lora_B.weight": (64, 4)}


@pytest.mark.parametrize(
    "own",
    [
        PartTuning("lora", keys=("*.q_proj", "mlp.*")),
        PartTuning("lora", num_layers=1),
        PartTuning("lora", keys=("self_attn.q_proj", "lm_head")),
    ],
    ids=["patterns", "last layer", "head"],
)
def test_an_imported_adapter_is_saved_and_loaded_as_any_other(own, tmp_path):
    tuned = export(tmp_path / "peft", own)
    model = make(LLAMA)
    identity = model_identity(model)
    found = import_peft(model, tmp_path / "peft")
    save_adapters(model, found, tmp_path / "ours", base_identity=identity)
    again = make(LLAMA)
    load_adapters(again, tmp_path / "ours")
    np.testing.assert_allclose(compute_logits(again), compute_logits(tuned), rtol=0, atol=1e-6)


def test_an_imported_adapter_is_taken_off_again(tmp_path):
    export(tmp_path / "peft")
    model = make(LLAMA)
    before = compute_logits(model)
    import_peft(model, tmp_path / "peft")
    remove_adapters(model)
    np.testing.assert_array_equal(compute_logits(model), before)


# What PEFT's layout has no place for


def test_other_tuned_parts_are_left_out_only_when_asked(tmp_path):
    model = make_trained(LLAMA, tuning(connector=PartTuning("full"), decoder=HOWS["lora"]))
    with pytest.raises(CheckpointError, match=r"the connector was tuned too.*`decoder_only` leaves it out"):
        export_peft(model, tmp_path / "peft", base_model="llama")
    export_peft(model, tmp_path / "peft", base_model="llama", decoder_only=True)
    assert config_of(tmp_path / "peft")["r"] == 4


@pytest.mark.parametrize("parts", [{"connector": HOWS["lora"]}, {"decoder": PartTuning("full")}], ids=str)
def test_a_decoder_without_adapters_is_not_exported(parts, tmp_path):
    with pytest.raises(CheckpointError, match="the decoder has no LoRA or DoRA"):
        export_peft(
            make_trained(LLAMA, tuning(**parts)), tmp_path / "peft", base_model="llama", decoder_only=True
        )
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"num_experts": 4, "sparse_every": 2}, "mlp.experts.up_proj"), ({}, "embed_tokens")],
    ids=["experts", "table"],
)
def test_adapters_of_experts_and_tables_are_not_exported(changes, key, tmp_path):
    config = replace(SMALL, text_config=replace(SMALL.text_config, **changes))
    model = make_trained(config, tuning(decoder=PartTuning("lora", keys=(key,))))
    with pytest.raises(CheckpointError, match=f"adapters of linears, not of decoder.*{key}"):
        export_peft(model, tmp_path / "peft", base_model="llama")


def test_fused_adapters_are_not_exported(tmp_path):
    model = make_trained(LLAMA, tuning(decoder=HOWS["lora"]))
    fuse_adapters(model)
    with pytest.raises(CheckpointError, match="the decoder has no LoRA or DoRA"):
        export_peft(model, tmp_path / "peft", base_model="llama")


# What is not read


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, ("peft_type is 'IA3'",)),
        ({"rank_pattern": {"q_proj": 2}, "bias": "all"}, ("bias, rank_pattern",)),
        ({"init_lora_weights": "pissa"}, ("init_lora_weights",)),
        ({"modules_to_save": ["lm_head"]}, ("modules_to_save",)),
        ({"r": 0}, ("r and lora_alpha",)),
        ({"lora_alpha": "16"}, ("r and lora_alpha",)),
        ({"r": 2, "lora_alpha": 4}, ("lora_a is (64, 4), expected (64, 2)",)),
        ({"lora_dropout": 1.0}, ("dropout is 1.0",)),
        ({"use_dora": True}, ("lacks", ".m")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_configuration_that_means_more_is_refused(changes, words, tmp_path):
    export(tmp_path / "peft")
    change_config(tmp_path / "peft", **changes)
    refused(tmp_path / "peft", *words)


def test_an_adapter_of_other_layers_is_refused_by_name(tmp_path):
    export(tmp_path / "peft")
    path = str(tmp_path / "peft" / "adapter_model.safetensors")
    weights = {key.replace("q_proj", "query"): value for key, value in mx.load(path).items()}
    mx.eval(weights)
    mx.save_safetensors(path, weights)
    refused(tmp_path / "peft", "no linear named", "self_attn.query")


@pytest.mark.parametrize("key", ["model.layers.0.q.lora_A.weight", "base_model.model.q.lora_embedding_A"])
def test_a_tensor_that_is_no_matrix_of_a_linear_is_refused(key, tmp_path):
    export(tmp_path / "peft")
    mx.save_safetensors(str(tmp_path / "peft" / "adapter_model.safetensors"), {key: mx.zeros((2, 2))})
    refused(tmp_path / "peft", key, "no matrix of LoRA")


def test_a_folder_without_peft_is_refused(tmp_path):
    refused(tmp_path, "has no adapter_config.json; give a folder of PEFT's")


def test_a_folder_without_weights_is_refused(tmp_path):
    export(tmp_path / "peft")
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    refused(tmp_path / "peft", "adapter_model.safetensors cannot be read")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "language_model."])
@pytest.mark.parametrize("config", [LLAMA, OURS], ids=["mlx-lm", "ours"])
def test_an_adapter_of_a_model_that_reads_pictures_is_read(config, prefix, tmp_path):
    model = export(tmp_path / "peft", config=config)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = dict(mx.load(str(path)))
    mx.eval(tensors)
    start = "base_model.model."
    moved = {f"{start}{prefix}{key.removeprefix(start + 'model.')}": value for key, value in tensors.items()}
    mx.save_safetensors(str(path), moved)
    again = make(config)
    import_peft(again, tmp_path / "peft")
    np.testing.assert_array_equal(compute_logits(again), compute_logits(model))

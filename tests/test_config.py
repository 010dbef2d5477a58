import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_mlx.config import (
    ConnectorConfig,
    DecoderConfig,
    ImageConfig,
    ImageEncoderConfig,
    MlxLmDecoderConfig,
    MM1Config,
    PromptConfig,
)
from mm1_mlx.errors import ConfigError
from mm1_mlx.presets import DECODERS, IMAGE_ENCODERS, MM1_TINY, preset

TINY = MM1_TINY.to_dict()
PRESETS = ["mm1-tiny", *DECODERS]
LLAMA = {"model_type": "llama", "hidden_size": 256, "vocab_size": 768, "max_position_embeddings": 512}


def changed(section, **changes):
    """The tiny model's configuration with some values of one section changed."""
    return TINY | {section: TINY[section] | changes}


def refusal(values, config_class=MM1Config):
    with pytest.raises(ConfigError) as error:
        config_class.from_dict(values)
    return str(error.value)


def through_json(config):
    return type(config).from_dict(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    assert through_json(preset(name)) == preset(name)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_an_image_encoder_survives_json(name):
    assert through_json(IMAGE_ENCODERS[name]) == IMAGE_ENCODERS[name]


PACKED = {"group_size": 64, "bits": 4, "mode": "affine"} | {"decoder.lm_head": {"group_size": 64, "bits": 6}}


def with_changes(connector=(), image=(), **changes):
    """The tiny model with other values in its connector and its pictures."""
    return replace(
        MM1_TINY,
        connector_config=replace(MM1_TINY.connector_config, **dict(connector)),
        image_config=replace(MM1_TINY.image_config, **dict(image)),
        **changes,
    )


ROTARY = replace(
    MM1_TINY.vision_config, final_norm=False, positions="rotary", temporal_patch_size=2, patch_block=2
)
ANYRES = {"sub_images": "anyres", "max_sub_images": 6, "unpad": True, "canvases": ((1, 2), (3, 2))}
DYNAMIC = {"sub_images": "dynamic", "min_sub_images": 4, "max_sub_images": 9, "position_tags": "index"}
SMART = {"resize": "smart", "size_multiple": 28, "min_pixels": 784, "max_pixels": 250_880}
MERGE = {"merge_size": 2, "num_visual_tokens": None, "position_antialias": True}
EVERY_OPTION = {
    "padding": with_changes({"num_extra_tokens": 1, "pre_norm": True}, {"resize": "pad", "alpha": "drop"}),
    "sub-images": with_changes({"row_end": True}, ANYRES),
    "any size": with_changes(MERGE, SMART, vision_config=ROTARY),
    "dynamic": with_changes(image=DYNAMIC),
    "pair": with_changes({"type": "c_abstractor_pair"}, {"sub_images": "quadrants"}),
    "decoder": with_changes(
        text_config=MlxLmDecoderConfig(LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ),
    "packed": with_changes(eos_token_id=(1, 2), quantization=PACKED, quantization_config=PACKED),
    "untrained": with_changes(untrained=("image encoder", "connector")),
    "prompt": with_changes(
        prompt_config=PromptConfig(
            cut_at=("\nHuman: ", "\nAI: "),
            after_image="\nHuman: ",
            image_part={"type": "image_url", "image_url": {"url": ""}},
            row_token_id=5,
            system="Be brief.",
        )
    ),
}


@pytest.mark.parametrize("config", EVERY_OPTION.values(), ids=EVERY_OPTION)
def test_every_optional_value_survives_json(config):
    assert config != MM1_TINY
    assert through_json(config) == config


def test_every_field_has_another_value_than_its_default_in_those_tests():
    tested = {ImageEncoderConfig: set(), ConnectorConfig: set(), ImageConfig: set(), PromptConfig: set()}
    for config in EVERY_OPTION.values():
        for part in (
            config.vision_config,
            config.connector_config,
            config.image_config,
            config.prompt_config,
        ):
            tested[type(part)] |= {f.name for f in fields(part) if getattr(part, f.name) != f.default}
    elsewhere = {
        *("feature_layer", "num_heads"),  # in the presets' encoders, and of the attention pooling
        *("norm", "patch_norm", "gated", "bias"),  # in AIMv2, of tests/convert/test_encoders.py
    }
    for config_class, names in tested.items():
        assert {f.name for f in fields(config_class)} - names <= elsewhere


def test_what_stands_at_its_default_is_not_written():
    written = MM1_TINY.to_dict()
    assert not {"prompt_config", "untrained", "quantization", "quantization_config"} & set(written)
    assert written["model_type"] == "mm1"


def test_what_differs_from_its_default_is_written():
    assert EVERY_OPTION["prompt"].to_dict()["prompt_config"]["system"] == "Be brief."
    assert EVERY_OPTION["untrained"].to_dict()["untrained"] == ("image encoder", "connector")


def test_a_decoder_of_mlx_lms_is_read_by_its_model_type():
    config = MM1Config.from_dict(TINY | {"text_config": LLAMA})
    assert config.text_config == MlxLmDecoderConfig(LLAMA)
    assert (config.text_config.hidden_dims, config.text_config.vocab_size) == (256, 768)
    assert (config.text_config.model_type, config.text_config.max_positions) == ("llama", 512)


def test_a_decoder_without_model_type_is_ours():
    values = {k: v for k, v in TINY["text_config"].items() if k != "model_type"}
    assert MM1Config.from_dict(TINY | {"text_config": values}) == MM1_TINY


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    message = refusal(changed("connector_config", num_visual_token=4))
    assert message == "ConnectorConfig has an unknown key 'num_visual_token'. Did you mean num_visual_tokens?"


def test_an_unknown_key_that_resembles_none_is_refused_with_all_known_ones():
    message = refusal(changed("image_config", zzz=1))
    assert message.startswith("ImageConfig has an unknown key 'zzz'. Known keys: image_size, mean, std, ")


def test_missing_keys_are_named():
    assert refusal({"type": "average_pool", "input_dims": 8}, ConnectorConfig) == (
        "ConnectorConfig lacks num_visual_tokens, output_dims."
    )


@pytest.mark.parametrize(
    "key", ["vision_config", "connector_config", "text_config", "image_config", "image_token_id"]
)
def test_a_missing_section_is_named(key):
    assert refusal({k: v for k, v in TINY.items() if k != key}) == f"MM1Config lacks {key}."


@pytest.mark.parametrize("key", ["model_type", "hidden_size", "vocab_size"])
def test_a_decoder_of_mlx_lms_needs_its_type_width_and_vocabulary(key):
    with pytest.raises(ConfigError, match=f"text_config lacks {key}."):
        MlxLmDecoderConfig({k: v for k, v in LLAMA.items() if k != key})


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_config", {"num_layers": "5"}, "ImageEncoderConfig.num_layers is '5', expected int."),
        ("vision_config", {"num_layers": 5.0}, "ImageEncoderConfig.num_layers is 5.0, expected int."),
        ("vision_config", {"norm_eps": "1e-5"}, "ImageEncoderConfig.norm_eps is '1e-5', expected float."),
        ("vision_config", {"norm_eps": None}, "ImageEncoderConfig.norm_eps is None, expected float."),
        (
            "vision_config",
            {"activation": "relu"},
            "ImageEncoderConfig.activation is 'relu', expected one of quick_gelu, gelu, gelu_tanh, silu.",
        ),
        (
            "connector_config",
            {"position_grid": "9"},
            "ConnectorConfig.position_grid is '9', expected int or null.",
        ),
        ("text_config", {"tied_head": 1}, "DecoderConfig.tied_head is 1, expected bool."),
        ("image_config", {"mean": [0.5, "x", 0.5]}, "ImageConfig.mean is 'x', expected float."),
        (
            "image_config",
            {"canvases": [[1, 2, 3]]},
            "ImageConfig.canvases is [1, 2, 3], expected a list of 2 int.",
        ),
        ("image_config", {"canvases": [[1, 2.0]]}, "ImageConfig.canvases is 2.0, expected int."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(section, change, message):
    assert refusal(changed(section, **change)) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt_config": {"cut_at": "x"}},
            "PromptConfig.cut_at is 'x', expected a list of any number of str.",
        ),
        ({"prompt_config": {"cut_at": [3]}}, "PromptConfig.cut_at is 3, expected str."),
        (
            {"prompt_config": {"image_part": []}},
            "PromptConfig.image_part is [], expected keys and values or null.",
        ),
        ({"prompt_config": {"system": 3}}, "PromptConfig.system is 3, expected str or null."),
        (
            {"prompt_config": {"cut": []}},
            "PromptConfig has an unknown key 'cut'. Did you mean cut_at?",
        ),
        (
            {"untrained": "connector"},
            "MM1Config.untrained is 'connector', expected a list of any number of str.",
        ),
    ],
)
def test_a_wrong_rule_for_prompts_is_refused(change, message):
    assert refusal(TINY | change) == message


@pytest.mark.parametrize("mean", [[0.5, 0.5], [0.5] * 4, 0.5, "0.5"])
def test_a_mean_needs_three_numbers(mean):
    assert refusal(changed("image_config", mean=mean)).startswith(f"ImageConfig.mean is {mean!r}, expected")


@pytest.mark.parametrize(
    ("section", "key"),
    [("vision_config", "num_layers"), ("connector_config", "num_blocks"), ("text_config", "num_experts")],
)
def test_booleans_are_not_accepted_as_integers(section, key):
    assert refusal(changed(section, **{key: True})).endswith(f"{key} is True, expected int.")


def test_booleans_are_not_accepted_as_numbers():
    assert (
        refusal(changed("text_config", rope_theta=True))
        == "DecoderConfig.rope_theta is True, expected float."
    )


def test_integers_are_accepted_as_numbers():
    theta = MM1Config.from_dict(changed("text_config", rope_theta=10_000)).text_config.rope_theta
    assert (theta, type(theta)) == (10_000, float)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused(value):
    assert refusal(changed("text_config", norm_eps=value)).startswith("DecoderConfig.norm_eps is ")


@pytest.mark.parametrize("section", ["vision_config", "connector_config", "text_config", "image_config"])
@pytest.mark.parametrize("value", [None, 3, "text", [1]])
def test_a_section_that_is_no_object_is_refused(section, value):
    refusal(TINY | {section: value})


def test_a_configuration_that_is_no_object_is_refused():
    assert refusal([1, 2]) == "MM1Config is [1, 2], expected keys and values."


def test_a_number_of_visual_tokens_that_is_no_square_is_refused_with_the_nearest_squares():
    assert refusal(changed("connector_config", num_visual_tokens=130)) == (
        "ConnectorConfig: num_visual_tokens is 130, not a perfect square; the nearest are 121 and 144."
    )


def test_a_connector_for_another_encoder_is_refused_with_both_widths():
    assert refusal(changed("connector_config", input_dims=64)) == (
        "MM1Config: connector_config.input_dims is 64, but vision_config.hidden_dims is 128."
    )


@pytest.mark.parametrize("text_config", [TINY["text_config"], LLAMA], ids=["ours", "mlx-lm's"])
def test_a_connector_for_another_decoder_is_refused_with_both_widths(text_config):
    values = changed("connector_config", output_dims=64) | {"text_config": text_config}
    assert refusal(values) == "MM1Config: connector_config.output_dims is 64, but the decoder is 256 wide."


@pytest.mark.parametrize("image_token_id", [-1, 768])
def test_an_image_token_outside_the_vocabulary_is_refused(image_token_id):
    assert refusal(TINY | {"image_token_id": image_token_id}) == (
        f"MM1Config: image_token_id is {image_token_id}, outside the vocabulary of 768."
    )


@pytest.mark.parametrize("change", [{"vocab_size": "768"}, {"hidden_size": None}, {"model_type": 3}])
def test_a_decoder_of_mlx_lms_with_a_value_of_the_wrong_type_is_refused(change):
    (key,) = change
    assert refusal(TINY | {"text_config": LLAMA | change}).startswith(f"text_config.{key} is ")


@pytest.mark.parametrize("feature_layer", [-7, 6])
def test_a_feature_layer_outside_the_encoder_is_refused(feature_layer):
    assert refusal(changed("vision_config", feature_layer=feature_layer)) == (
        f"ImageEncoderConfig: feature_layer is {feature_layer}, expected -6 to 5 for 5 layers."
    )


@pytest.mark.parametrize(("feature_layer", "expected"), [(-1, 5), (-2, 4), (5, 5), (0, 0), (-6, 0)])
def test_a_feature_layer_counts_from_the_input_or_from_the_end(feature_layer, expected):
    config = replace(MM1_TINY.vision_config, feature_layer=feature_layer)
    assert config.num_feature_layers == expected


@pytest.mark.parametrize("change", [{"num_experts": 4}, {"sparse_every": 2}])
def test_experts_and_sparse_layers_go_together(change):
    assert "give both or neither" in refusal(changed("text_config", **change))


@pytest.mark.parametrize("sparse_every", [-1, 5])
def test_a_decoder_with_experts_and_no_layer_for_them_is_refused(sparse_every):
    assert refusal(changed("text_config", num_experts=4, sparse_every=sparse_every)) == (
        f"DecoderConfig: sparse_every is {sparse_every}, expected 1 to 4 for 4 layers."
    )


def test_a_single_expert_is_refused():
    assert refusal(changed("text_config", num_experts=1, sparse_every=2)) == (
        "DecoderConfig: num_experts is 1; top-2 routing needs at least 2 (0: dense)."
    )


MERGE_REFUSAL = "merge_size is for a c_abstractor whose num_visual_tokens is null, and at least 2."


MISFITS = [
    ("vision_config", {"num_heads": 3}, "hidden_dims is 128, not a multiple of num_heads 3."),
    ("vision_config", {"image_size": 13}, "image_size is 13, smaller than one patch of 14."),
    ("vision_config", {"patch_size": 0}, "patch_size is 0, expected more than 0."),
    ("connector_config", {"num_blocks": -1}, "num_blocks is -1, expected 0 to 10000."),
    (
        "connector_config",
        {"hidden_dims": 0},
        "input_dims and hidden_dims are 128 and 0, expected at least 3: squeeze-excite takes a quarter.",
    ),
    ("connector_config", {"num_readout_layers": 4}, "num_readout_layers is 4, expected 1 to 3."),
    ("connector_config", {"position_grid": 0}, "position_grid is 0, expected more than 0 or null."),
    ("connector_config", {"num_extra_tokens": -1}, "num_extra_tokens is -1, expected 0 or more."),
    (
        "connector_config",
        {"type": "average_pool", "num_extra_tokens": 1},
        "num_extra_tokens and row_end are for the c_abstractor only.",
    ),
    (
        "connector_config",
        {"type": "c_abstractor_pair", "row_end": True},
        "num_extra_tokens and row_end are for the c_abstractor only.",
    ),
    (
        "connector_config",
        {"num_visual_tokens": None},
        "num_visual_tokens is null; give a number or merge_size.",
    ),
    ("connector_config", {"num_visual_tokens": 0}, "num_visual_tokens is 0, expected more than 0."),
    ("connector_config", MERGE | {"num_visual_tokens": 16}, MERGE_REFUSAL),
    ("connector_config", MERGE | {"merge_size": 1}, MERGE_REFUSAL),
    ("connector_config", MERGE | {"merge_size": -2}, MERGE_REFUSAL),
    ("connector_config", MERGE | {"type": "average_pool"}, MERGE_REFUSAL),
    ("connector_config", MERGE | {"type": "c_abstractor_pair"}, MERGE_REFUSAL),
    ("connector_config", MERGE | {"num_blocks": 0}, "merge_size needs num_blocks above 0."),
    (
        "connector_config",
        {"type": "attention_pool", "num_heads": 3},
        "hidden_dims is 128, not a multiple of num_heads 3.",
    ),
    ("text_config", {"num_kv_heads": 3}, "num_heads is 4, not a multiple of num_kv_heads 3."),
    ("text_config", {"head_dims": 63}, "head_dims is 63, RoPE needs an even number."),
    ("text_config", {"rope_theta": -1.0}, "rope_theta is -1.0, expected more than 0."),
    ("image_config", {"std": [0.5, 0.0, 0.5]}, "std is (0.5, 0.0, 0.5), expected numbers above 0."),
    ("image_config", {"max_sub_images": 0}, "max_sub_images is 0, expected more than 0."),
    (
        "image_config",
        ANYRES | {"canvases": [[1, 2], [4, 2]]},
        "canvases are ((1, 2), (4, 2)), expected rows and columns of at most 6 sub-images.",
    ),
    (
        "image_config",
        ANYRES | {"canvases": [[-1, -2]]},
        "canvases are ((-1, -2),), expected rows and columns of at most 6 sub-images.",
    ),
    ("image_config", {"unpad": True}, "unpad is for sub_images anyres only."),
    ("image_config", {"canvases": [[1, 1]]}, "canvases is for sub_images anyres only."),
    ("image_config", {"min_sub_images": 2}, "min_sub_images is for sub_images dynamic only."),
    (
        "image_config",
        {"position_tags": "index", "sub_images": "quadrants"},
        "position_tags is for sub_images static and dynamic only.",
    ),
    ("image_config", DYNAMIC | {"min_sub_images": 0}, "min_sub_images is 0, expected more than 0."),
    (
        "image_config",
        DYNAMIC | {"min_sub_images": 10},
        "min_sub_images is 10, more than max_sub_images 9.",
    ),
    (
        "image_config",
        {"sub_images": "dynamic"},
        "sub_images dynamic needs max_sub_images above 1; MM1.5 has 9.",
    ),
    ("image_config", {"max_sub_images": 1025}, "max_sub_images is 1025, expected at most 1024."),
    ("image_config", SMART | {"sub_images": "static"}, "resize smart goes with sub_images none only."),
    ("image_config", SMART | {"size_multiple": 0}, "size_multiple is 0, expected more than 0."),
    ("image_config", SMART | {"min_pixels": 0}, "min_pixels is 0, expected more than 0."),
    ("image_config", SMART | {"max_pixels": -1}, "max_pixels is -1, expected more than 0."),
    ("image_config", SMART | {"max_pixels": 783}, "min_pixels is 784, more than max_pixels 783."),
    (
        "image_config",
        SMART | {"sub_images": "quadrants"},
        "resize smart goes with sub_images none only.",
    ),
    ("image_config", {"image_size": 16_385}, "image_size is 16385, expected at most 16384."),
]


def test_sizes_that_do_not_fit_each_other_are_refused(subtests):
    for section, change, message in MISFITS:
        with subtests.test(msg=f"{section} with {change}"):
            assert refusal(changed(section, **change)).endswith(f": {message}")


def test_settings_of_the_old_rule_go_when_another_is_chosen():
    anyres = EVERY_OPTION["sub-images"].image_config
    assert anyres.changed(sub_images="static") == ImageConfig.from_dict(
        MM1_TINY.image_config.to_dict() | {"sub_images": "static", "max_sub_images": 6}
    )


def test_settings_that_the_new_rule_has_too_stay():
    dynamic = EVERY_OPTION["dynamic"].image_config
    found = dynamic.changed(sub_images="static")
    assert (found.position_tags, found.min_sub_images, found.max_sub_images) == ("index", 1, 9)
    assert dynamic.changed(max_sub_images=16).min_sub_images == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sub_image": "static"}, "has an unknown key 'sub_image'. Did you mean sub_images?"),
        (
            {"sub_images": "six"},
            "sub_images is 'six', expected one of none, static, dynamic, quadrants, anyres.",
        ),
        ({"image_size": "672"}, "image_size is '672', expected int."),
        ({"unpad": True}, "unpad is for sub_images anyres only."),
    ],
)
def test_a_change_that_is_not_possible_is_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        MM1_TINY.image_config.changed(**changes)
    assert str(error.value).endswith(message)


def test_a_size_of_views_is_refused_where_pictures_keep_their_sides():
    with pytest.raises(ConfigError, match="image_size does nothing with resize smart"):
        EVERY_OPTION["any size"].image_config.changed(image_size=672)


ANY_SIZE = EVERY_OPTION["any size"].to_dict()
ROWS_ONLY = "visual tokens that stand in rows (anyres, row_token_id) leave num_extra_tokens no place."
QUADRANTS_ONLY = (
    "a c_abstractor_pair reads four quadrants and the whole: image_config.sub_images must be quadrants."
)


@pytest.mark.parametrize(
    ("connector", "image", "message"),
    [
        ({"type": "c_abstractor_pair"}, {}, QUADRANTS_ONLY),
        ({"type": "c_abstractor_pair"}, {"sub_images": "anyres"}, QUADRANTS_ONLY),
        ({"type": "c_abstractor_pair"}, {"sub_images": "static"}, QUADRANTS_ONLY),
        ({}, {"sub_images": "anyres", "unpad": True}, "image_config.unpad needs connector_config.row_end."),
        (
            {"num_extra_tokens": 1},
            {"sub_images": "anyres"},
            ROWS_ONLY,
        ),
        (MERGE, {}, "connector_config.merge_size needs image_config.resize smart."),
        (
            {},
            SMART,
            "resize smart needs a connector with merge_size and a size_multiple of 14 pixels, found 28.",
        ),
        (
            MERGE,
            SMART | {"size_multiple": 42},
            "resize smart needs a connector with merge_size and a size_multiple of 28 pixels, found 42.",
        ),
    ],
)
def test_a_connector_that_does_not_fit_the_views_is_refused(connector, image, message):
    sections = {"connector_config": connector, "image_config": image}
    values = TINY | {name: TINY[name] | change for name, change in sections.items()}
    assert refusal(values) == f"MM1Config: {message}"


@pytest.mark.parametrize(("patch_block", "step"), [(3, 84), (4, 56)])
def test_sides_of_whole_blocks_and_whole_merged_squares_are_asked_for(patch_block, step):
    values = ANY_SIZE | {"vision_config": ANY_SIZE["vision_config"] | {"patch_block": patch_block}}
    expected = f"connector with merge_size and a size_multiple of {step} pixels, found 28."
    assert refusal(values) == f"MM1Config: resize smart needs a {expected}"


def test_extra_tokens_have_no_place_between_row_tokens():
    connector = ANY_SIZE["connector_config"] | {"num_extra_tokens": 1}
    values = ANY_SIZE | {"connector_config": connector, "prompt_config": {"row_token_id": 5}}
    assert refusal(values) == f"MM1Config: {ROWS_ONLY}"


@pytest.mark.parametrize("row_token_id", [-1, 768])
def test_a_row_token_outside_the_vocabulary_is_refused(row_token_id):
    assert refusal(TINY | {"prompt_config": {"row_token_id": row_token_id}}) == (
        f"MM1Config: prompt_config.row_token_id is {row_token_id}, outside the vocabulary of 768."
    )


@pytest.mark.parametrize(
    ("config", "grid", "expected"),
    [
        (with_changes({"num_extra_tokens": 2}), (9, 9), 18),
        (EVERY_OPTION["pair"], (9, 9), 32),
        (EVERY_OPTION["any size"], (4, 10), 10),
    ],
    ids=["extra tokens", "pair", "merged"],
)
def test_a_connector_tells_how_many_tokens_its_views_make(config, grid, expected):
    assert config.connector_config.num_tokens(*grid) == expected


@pytest.mark.parametrize(("name", "expected"), [("pair", 5), ("padding", 1), ("any size", 1)])
def test_a_pair_reads_five_views_at_once_and_the_others_one(name, expected):
    assert EVERY_OPTION[name].connector_config.views_at_once == expected


def test_the_patch_grid_is_that_of_the_pictures_and_not_of_the_learned_positions():
    assert MM1_TINY.patch_grid == (9, 9)
    assert with_changes(image={"image_size": 200}).patch_grid == (14, 14)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
SECTIONS = {
    ImageEncoderConfig: TINY["vision_config"],
    ConnectorConfig: TINY["connector_config"],
    DecoderConfig: TINY["text_config"],
    ImageConfig: TINY["image_config"],
    PromptConfig: {"cut_at": ["a"], "after_image": "b", "row_token_id": 5, "system": "c"},
}


def objects(valid):
    """Any JSON object, and a valid one with any values in place of some of its own, or without some."""
    keys = st.sampled_from(sorted(valid))
    changes = st.dictionaries(keys | st.text(max_size=5), JSON, max_size=3)
    dropped = st.sets(keys, max_size=1)
    near = st.builds(
        lambda new, old: {k: v for k, v in (valid | new).items() if k not in old}, changes, dropped
    )
    return near | st.dictionaries(keys | st.text(max_size=5), JSON, max_size=6) | JSON


def assert_read_or_refused(config_class, values):
    try:
        config = config_class.from_dict(values)
    except ConfigError as error:
        assert str(error).endswith((".", "?"))
    else:
        assert through_json(config) == config


@pytest.mark.parametrize("config_class", SECTIONS, ids=lambda c: c.__name__)
@settings(max_examples=50)
@given(data=st.data())
def test_any_json_is_read_or_refused_with_a_reason(config_class, data):
    assert_read_or_refused(config_class, data.draw(objects(SECTIONS[config_class])))


@settings(max_examples=60)
@given(data=st.data())
def test_any_json_as_a_whole_model_is_read_or_refused_with_a_reason(data):
    values = data.draw(objects(TINY))
    section = data.draw(
        st.sampled_from(["vision_config", "connector_config", "text_config", "image_config", None])
    )
    if section is not None and isinstance(values, dict):
        values = values | {section: data.draw(objects(LLAMA if data.draw(st.booleans()) else TINY[section]))}
    assert_read_or_refused(MM1Config, values)

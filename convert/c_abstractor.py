"""Convert the C-Abstractor in Honeybee's layout, which HyperCLOVAX, 360VL and Kanana share.

Everything but the number of visual tokens is read from the shapes of the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mm1_mlx.config import ConnectorConfig, ConnectorType
from mm1_mlx.errors import CheckpointError

from .key_table import (
    BATCH_OF_ONE,
    DEPTHWISE,
    POINTWISE,
    SAME,
    KeyTable,
    Move,
    drop_first_row,
    keep_layer,
)
from .source_config import SourceConfig

Shapes = Mapping[str, tuple[int, ...]]


def connector_config(
    shapes: Shapes,
    *,
    num_visual_tokens: int | None,
    type: ConnectorType = "c_abstractor",
    merge_size: int = 0,
    row_end: bool = False,
    position_antialias: bool = False,
) -> ConnectorConfig:
    """Return the sizes of a C-Abstractor, from the ``shapes`` of its tensors by their names without the prefix.

    Settings that the tensors do not show are given as fields of ``ConnectorConfig``.

    Raises:
        CheckpointError: the tensors are not those of a C-Abstractor.
    """
    if any(key.startswith(("layers.", "query_position_embeddings", "reference_points")) for key in shapes):
        raise CheckpointError(
            "the connector is a D-Abstractor (Honeybee-D, a deformable DETR decoder), not MM1's C-Abstractor; convert "
            "a Honeybee-C checkpoint."
        )
    if "readout.0.weight" not in shapes:
        found = ", ".join(sorted(shapes)[:4]) or "none"
        raise CheckpointError(
            f"no C-Abstractor is here: readout.0.weight is absent; the connector's tensors are {found}."
        )
    for key, axes in (
        ("readout.0.weight", 2),
        ("net.0.b1.conv1.conv.weight", 4),
        ("pos_emb", 3),
        ("eos_tokens", 3),
    ):
        if len(shapes.get(key, (0,) * axes)) != axes:
            raise CheckpointError(f"the connector's {key} is {shapes[key]}, expected {axes} axes.")
    blocks = [re.match(r"net\.0\.b(\d+)\.conv1\.conv\.weight", key) for key in shapes]
    num_blocks = sum(block is not None for block in blocks)
    if num_blocks:
        hidden_dims, input_dims = shapes["net.0.b1.conv1.conv.weight"][:2]
    else:
        hidden_dims, input_dims = 0, shapes["readout.0.weight"][1]
    readouts = [key for key in shapes if re.fullmatch(r"readout\.\d+\.weight", key)]
    return ConnectorConfig(
        type=type,
        num_visual_tokens=num_visual_tokens,
        input_dims=input_dims,
        hidden_dims=hidden_dims,
        output_dims=shapes["readout.0.weight"][0],
        num_blocks=num_blocks,
        num_readout_layers=len(readouts),
        position_grid=_position_grid(shapes["pos_emb"][1]) if "pos_emb" in shapes else None,
        pre_norm="prenorm.weight" in shapes,
        num_extra_tokens=shapes["eos_tokens"][1] if "eos_tokens" in shapes else 0,
        merge_size=merge_size,
        row_end=row_end,
        position_antialias=position_antialias,
    )


def check_declared(declared: SourceConfig, config: ConnectorConfig) -> None:
    """Refuse a configuration that contradicts the tensors."""
    facts = {
        "depth": config.num_blocks,
        "mlp_depth": config.num_readout_layers,
        "encoder_hidden_size": config.input_dims,
        "output_hidden_size": config.output_dims,
        "pos_emb": config.position_grid is not None,
        "prenorm": config.pre_norm,
        "num_eos_tokens": config.num_extra_tokens,
    }
    if config.num_blocks:
        facts["hidden_size"] = config.hidden_dims
    for key, derived in facts.items():
        value = bool(declared.values.get(key)) if isinstance(derived, bool) else declared.values.get(key)
        if declared.values.get(key) is not None and value != derived:
            declared.agree(key, derived, "the tensors say")


def _position_grid(rows: int) -> int:
    """Return the side of the learned positions; older checkpoints hold one more row, for a class token."""
    for count in (rows, rows - 1):
        if math.isqrt(count) ** 2 == count:
            return math.isqrt(count)
    raise CheckpointError(f"pos_emb has {rows} rows, neither a square grid nor one and a class token.")


def connector_keys(config: ConnectorConfig, shapes: Shapes) -> KeyTable:
    """Return the table from Honeybee's names to ours, both without the connector's prefix."""
    moves = {}
    if config.position_grid:
        class_row = shapes["pos_emb"][1] != config.position_grid**2
        moves["pos_emb"] = Move(("position_embedding",), drop_first_row() if class_row else BATCH_OF_ONE)
    if config.pre_norm:
        moves |= keep_layer("prenorm", "pre_norm")
    if config.num_extra_tokens:
        moves["eos_tokens"] = Move(("extra_tokens",), BATCH_OF_ONE)
    for stage, side in ((0, "before"), (2, "after")):
        for i in range(config.num_blocks):
            moves |= _block(f"net.{stage}.b{i + 1}", f"{side}.{i}", shapes)
    for i in range(config.num_readout_layers):
        moves |= keep_layer(f"readout.{2 * i}", f"readout.{i}")
    return KeyTable(moves)


def _block(source: str, target: str, shapes: Shapes) -> dict[str, Move]:
    """Return the moves of one RegStage block."""
    moves = {}
    for conv, transform in ((1, POINTWISE), (2, DEPTHWISE), (3, POINTWISE)):
        moves[f"{source}.conv{conv}.conv.weight"] = Move((f"{target}.conv{conv}.weight",), transform)
        moves |= keep_layer(f"{source}.conv{conv}.bn", f"{target}.norm{conv}")
    for fc in ("fc1", "fc2"):
        moves[f"{source}.se.{fc}.weight"] = Move((f"{target}.squeeze_excite.{fc}.weight",), POINTWISE)
        moves[f"{source}.se.{fc}.bias"] = Move((f"{target}.squeeze_excite.{fc}.bias",), SAME)
    if f"{source}.downsample.conv.weight" in shapes:
        moves[f"{source}.downsample.conv.weight"] = Move((f"{target}.shortcut.weight",), POINTWISE)
        moves |= keep_layer(f"{source}.downsample.bn", f"{target}.shortcut_norm")
    return moves

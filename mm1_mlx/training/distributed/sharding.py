"""Fully sharded training: each process holds only its own rows of the weights and of the optimizer's state.

These are cut: the decoder's layers, embedding table and head, whether they are trained or not; the image encoder's
layers that are trained; and the connector if it is trained. Rows are spread as evenly as possible, and a stack of
experts by whole experts. Vectors, such as those of norms, stay whole. A frozen image encoder or connector also stays
whole, so that each process encodes its own pictures, and keeps visual tokens, without the others.

Every process loads the whole model as usual, and then frees the rows of the others. So it needs memory for the whole
model while it loads, and afterwards for its own rows, one whole layer, and what that layer computes.

MLX's own ``nn.fully_shard`` does not fit: the ring between Macs has no ``sum_scatter``; it sends packed weights as if
they were floating-point numbers; its wrapper changes the keys of the weights and hides attributes that mlx-lm's
decoders read of their layers; and it leaves the order of messages to a graph that differs between processes.

Source: ZeRO (arXiv:1910.02054), third stage; FSDP (arXiv:2304.11277).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float
from mlx.utils import tree_map_with_path, tree_unflatten

from mm1_mlx.arrays import flatten, to_number
from mm1_mlx.data.packing import idle_sequence, logits_of
from mm1_mlx.errors import TrainingError
from mm1_mlx.model.layer_calls import make_stand_in, replace_module
from mm1_mlx.model.mm1 import MM1
from mm1_mlx.training.causality import TOLERANCE
from mm1_mlx.training.distributed.processes import Processes
from mm1_mlx.training.distributed.sharded_layer import make_gathering_call
from mm1_mlx.tuning.adapters import LINEARS, TABLES

LARGE = 1_000_000  # bytes; a larger matrix must be cut


@dataclass(frozen=True)
class Shards:
    """Which parameters of a model are cut. A model that is not sharded has none."""

    processes: Processes
    rows: dict[str, int] = field(default_factory=dict)  # number of rows of each whole matrix, by its key

    def whole(self, key: str | None, value: mx.array) -> mx.array:
        """Return a whole parameter, or a whole array of the optimizer's state that has the rows of parameter ``key``.

        All processes must call this together.
        """
        return self.processes.gather([value], [self.rows[key]])[0] if key in self.rows else value

    def whole_shape(self, key: str | None, value: mx.array) -> tuple[int, ...]:
        """Return the shape of what ``whole`` returns."""
        return (self.rows[key], *value.shape[1:]) if key in self.rows else value.shape

    def cut(self, key: str | None, value: mx.array) -> mx.array:
        """Return this process's share of a whole array."""
        return self.processes.cut(value) if key in self.rows else value

    def sum_gradients(self, gradients: Any) -> Any:
        """Add gradients up over all processes; those of cut matrices are sums already."""
        if self.processes.size == 1:
            return gradients
        return tree_map_with_path(
            lambda key, g: g if key in self.rows else self.processes.sum_arrays(g), gradients
        )

    def norm(self, gradients: Any) -> mx.array:
        """Return the norm of the whole gradient, in float32."""
        whole, cut = [mx.array(0.0)], [mx.array(0.0)]
        for key, gradient in flatten(gradients).items():
            square = mx.sum(mx.square(gradient.astype(mx.float32)))
            (cut if key in self.rows else whole).append(square)
        squares = mx.sum(mx.stack(cut))
        if self.rows:
            squares = self.processes.sum_arrays(squares)
        return mx.sqrt(squares + mx.sum(mx.stack(whole)))


def shard(model: MM1, processes: Processes) -> Shards:
    """Cut a model that is prepared for training, and return what was cut.

    Args:
        model: changed in place.
        processes: the processes over which it is spread.

    Raises:
        TrainingError: a large matrix has fewer rows than there are processes, or the decoder uses weights of its
            layers from outside of them.
    """
    before, rows = _logits(model), {}
    for path, module in _modules_to_cut(model).items():
        own = {}
        for key, value in flatten(module.parameters()).items():
            if _is_cut(f"{path}.{key}", value, processes.size):
                own[key], part = len(value), processes.cut(value)
                mx.eval(part)  # now, so that a layer's whole matrices are freed before the next layer is cut
                module.update(tree_unflatten([(key, part)]))
        replace_module(model, module, make_stand_in(module, make_gathering_call(own, processes)))
        rows |= {f"{path}.{key}": count for key, count in own.items()}
    _require_same(model, before)
    return Shards(processes, rows)


def _modules_to_cut(model: MM1) -> dict[str, nn.Module]:
    """Return the modules whose matrices are cut, by their paths in the model."""
    paths = {id(module): path for path, module in model.named_modules()}
    modules = [*model.decoder.layers, *_tables_and_heads(model)]
    modules += [layer for layer in model.image_encoder.layers if _is_trained(layer)]
    modules += [model.connector] if _is_trained(model.connector) else []
    return {paths[id(module)]: module for module in modules}


def _tables_and_heads(model: MM1) -> list[nn.Module]:
    """Return the decoder's modules with a row for every token of the vocabulary, together with their adapters."""
    in_layers = {id(inner) for layer in model.decoder.layers for inner in layer.modules()}
    modules, found = dict(model.decoder.named_modules()), []
    for path, module in modules.items():
        is_linear = isinstance(module, LINEARS + TABLES) and id(module) not in in_layers
        if is_linear and len(module.weight) == model.config.text_config.vocab_size:
            around = modules[path.rpartition(".")[0]]
            found.append(around if "lora_a" in around else module)
            module._num_rows = len(
                module.weight
            )  # lets the table be found among other embeddings when it is cut
    return found


def _is_trained(module: nn.Module) -> bool:
    return bool(flatten(module.trainable_parameters()))


def _is_cut(key: str, value: mx.array, size: int) -> bool:
    if value.ndim < 2:
        return False
    if len(value) < size and value.nbytes > LARGE:
        raise TrainingError(
            f"--shard cannot cut {key}: it has {len(value)} rows, and there are {size} processes; start at most "
            f"{len(value)}, or train without --shard."
        )
    return len(value) >= size


def _logits(model: MM1) -> Float[mx.array, "L V"]:
    model.eval()
    sequence = idle_sequence()
    logits = logits_of(model, sequence, model.embed_text(sequence.ids))
    mx.eval(logits)
    return logits


def _require_same(model: MM1, before: Float[mx.array, "L V"]) -> None:
    """Refuse a decoder that reads a layer's weights without calling the layer, since it would read only some rows."""
    try:
        after = _logits(model)
        most = TOLERANCE.get(before.dtype, 1e-4) * max(to_number(mx.abs(before).max()), 1.0)
        same = after.shape == before.shape and to_number(mx.abs(after - before).max()) <= most
    except (ValueError, IndexError):  # shapes that do not fit
        same = False
    if not same:
        raise TrainingError(
            f"the {model.config.text_config.model_type} decoder cannot be cut: it uses weights of its layers from "
            "outside of them. Train it without --shard."
        )

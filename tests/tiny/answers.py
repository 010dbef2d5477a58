"""Greedy answers of many prompts at once: pictures encoded once, prompts of one length decoded together."""

from collections import defaultdict

import mlx.core as mx
import numpy as np

from mm1_mlx.generation.caches import make_cache
from mm1_mlx.model.mm1 import place_visual_tokens, visual_token_places


def encode_all(model, processor, pictures, *, batch_size=64):
    """Return the visual tokens of pictures of one view each."""
    pixels = [processor("x", [picture]).pixel_values for picture in pictures]
    encoded = []
    for start in range(0, len(pixels), batch_size):
        encoded.append(model.encode_images(mx.concatenate(pixels[start : start + batch_size])))
        mx.eval(encoded[-1])
    return mx.concatenate(encoded)


def answer_all(model, processor, pictures, prompts, *, visual=None, max_tokens=12, batch_size=64):
    """Return the answers to ``prompts``, pairs of a picture's number and a text, in their order.

    ``visual`` has the pictures' visual tokens, where they are known.
    """
    visual = encode_all(model, processor, pictures, batch_size=batch_size) if visual is None else visual
    ids = [np.array(processor(text, [pictures[number]]).input_ids) for number, text in prompts]
    groups = defaultdict(list)
    for index, row in enumerate(ids):
        groups[len(row)].append(index)
    answers = [""] * len(prompts)
    for indices in groups.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            numbers = mx.array([prompts[i][0] for i in chosen])
            tokens = _greedy(model, mx.array(np.stack([ids[i] for i in chosen])), visual[numbers], max_tokens)
            for index, row in zip(chosen, tokens, strict=True):
                answers[index] = _text(processor.tokenizer, row)
    return answers


def _greedy(model, ids, visual_tokens, max_tokens):
    places = visual_token_places(ids, model.config.image_token_id)
    embeddings = place_visual_tokens(model.embed_text(ids), visual_tokens.flatten(0, 1), places)
    cache = make_cache(model)
    logits = model(ids, cache=cache, input_embeddings=embeddings)
    tokens = []
    for _ in range(max_tokens):
        tokens.append(logits[:, -1].argmax(-1))
        logits = model(tokens[-1][:, None], cache=cache)
    return np.array(mx.stack(tokens, axis=1))


def _text(tokenizer, row):
    kept = []
    for token in row.tolist():
        if token in tokenizer.eos_token_ids:
            break
        kept.append(token)
    return tokenizer.decode(kept)

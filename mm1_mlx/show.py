"""Look at a model and at what it sees: its sizes, its memory, sub-images, visual tokens, attention."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_mlx import flags
from mm1_mlx.command import Subcommand, add_subcommands, entry_points
from mm1_mlx.presets import preset
from mm1_mlx.settings import EMBEDDED_MODEL, MAX_TOKENS

if TYPE_CHECKING:
    from PIL import Image

    from mm1_mlx.config import MM1Config

CONFIG_HELP = "the parts of a model, their sizes, and what a picture costs"
MEMORY_HELP = "what a model needs of this machine's memory, by dtype and quantization"
SUB_IMAGES_HELP = "draw how a picture is cut: the views over it, in order, with their visual tokens"
TOKENS_HELP = (
    "draw the patches that visual tokens respond to, through the connector; the image encoder before it has mixed "
    "the whole picture into every patch"
)
ATTENTION_HELP = "draw what each word of an answer attended to, the mean over the decoder's heads and layers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subcommands(
        parser,
        Subcommand("config", CONFIG_HELP, add_sizes, show_config),
        Subcommand("memory", MEMORY_HELP, add_memory, show_memory),
        Subcommand("sub-images", SUB_IMAGES_HELP, add_sub_images, show_sub_images),
        Subcommand("tokens", TOKENS_HELP, add_tokens, show_tokens),
        Subcommand("attention", ATTENTION_HELP, add_attention, show_attention),
    )


def run(args: argparse.Namespace) -> None:
    args.subcommand(args)


def add_sizes(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default=EMBEDDED_MODEL, help="model folder or hub id")
    which.add_argument("--preset", metavar="NAME", help="sizes by name instead, such as mm1-30b")


def show_config(args: argparse.Namespace) -> None:
    from mm1_mlx.seeing.parts import describe_model

    config, _ = _sizes(args)
    print(describe_model(config))


def add_memory(parser: argparse.ArgumentParser) -> None:
    add_sizes(parser)
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens in the KV cache; by default all it holds"
    )
    parser.add_argument(
        "--num-images", type=int, default=1, metavar="N", help="pictures in a prompt, of 4032 x 3024 pixels"
    )


def show_memory(args: argparse.Namespace) -> None:
    from mm1_mlx.machine import machine_memory
    from mm1_mlx.sizing.inference import list_needs, memory_table

    config, folder = _sizes(args)
    found, memory = (
        list_needs(config, folder, context=args.context, num_images=args.num_images),
        machine_memory(),
    )
    print(memory_table(found, memory))


def add_sub_images(parser: argparse.ArgumentParser) -> None:
    _add_picture(parser)
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="model folder or hub id; no weights are read")
    flags.add_large_pictures(parser)


def show_sub_images(args: argparse.Namespace) -> None:
    from mm1_mlx.checkpoint.hub import find_folder
    from mm1_mlx.checkpoint.load import read_config
    from mm1_mlx.inputs.sub_images import views
    from mm1_mlx.seeing.boxes import find_sight
    from mm1_mlx.seeing.draw import output_path, write_png
    from mm1_mlx.seeing.figures import sub_images_figure
    from mm1_mlx.seeing.tables import views_table

    path = output_path(args.output, args.picture, "sub-images")
    folder = find_folder(args.model)
    config = read_config(folder)
    config = replace(config, image_config=config.image_config.changed(**flags.image_changes(args)))
    picture = _open(args, config)
    seen = find_sight(picture.size, config, **_encoder_of(folder, config))
    real = views(picture, config.image_config, max_pixels=args.max_image_pixels)
    title = f"{_name(args)}: {picture.width} x {picture.height} pixels, {config.image_config.sub_images}"
    write_png(sub_images_figure(f"{title}, {len(seen.tokens)} visual tokens", picture, real, seen), path)
    print(views_table(seen, config.text_config.max_positions))
    print(path)


def add_tokens(parser: argparse.ArgumentParser) -> None:
    _add_picture(parser)
    parser.add_argument(
        "--token", type=int, nargs="+", metavar="N",
        help="visual tokens, counted from 1 as the decoder reads them; by default the first view's",
    )  # fmt: skip
    flags.add_model(parser)
    flags.add_large_pictures(parser)


def show_tokens(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from mm1_mlx.inputs.sub_images import views
    from mm1_mlx.seeing.boxes import find_sight
    from mm1_mlx.seeing.draw import output_path, write_png
    from mm1_mlx.seeing.figures import responses_figure
    from mm1_mlx.seeing.responses import choose_tokens, response_map
    from mm1_mlx.seeing.tables import responses_table

    path = output_path(args.output, args.picture, "tokens")
    model, processor = flags.load_model(args)
    config = processor.config.image_config
    picture = _open(args, processor.config)
    seen = find_sight(picture.size, processor.config)
    real = views(picture, config, max_pixels=args.max_image_pixels)
    numbers = tqdm(args.token or choose_tokens(seen), unit="token", file=sys.stderr, disable=None)
    maps = {number: response_map(model, real, seen, config, number) for number in numbers}
    write_png(responses_figure(_name(args), picture, seen, maps), path)
    print(responses_table(seen, maps))
    print(path)


def add_attention(parser: argparse.ArgumentParser) -> None:
    _add_picture(parser)
    parser.add_argument("--prompt", required=True, help="a question about the picture")
    parser.add_argument(
        "--word", type=int, metavar="N", help="of the answer, counted from 1; by default each"
    )
    parser.add_argument(
        "--layer", type=int, metavar="N", help="of the decoder, counted from 1; by default the mean"
    )
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest answer, in tokens")
    flags.add_model(parser)
    flags.add_large_pictures(parser)


def show_attention(args: argparse.Namespace) -> None:
    from mm1_mlx.seeing.attention import answer_with_attention, require_number
    from mm1_mlx.seeing.boxes import find_sight
    from mm1_mlx.seeing.draw import output_path, write_png
    from mm1_mlx.seeing.figures import attention_figure
    from mm1_mlx.seeing.tables import words_table

    path = output_path(args.output, args.picture, "attention")
    model, processor = flags.load_model(args)
    picture = _open(args, processor.config)
    seen = find_sight(picture.size, processor.config)
    if args.model == EMBEDDED_MODEL:
        print(flags.TINY_NOTICE, file=sys.stderr)
    attended = answer_with_attention(
        model, processor, picture, args.prompt, max_tokens=args.max_tokens, layer=args.layer
    )
    words = attended.words
    if args.word is not None:
        require_number("--word", args.word, len(words), "words in the answer")
        words = words[args.word - 1 : args.word]
    write_png(attention_figure(args.prompt, picture, seen, attended, words), path)
    print(f"attention: {attended.source}")
    print(words_table(words, seen, args.layer))
    print(path)


def _add_picture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", metavar="PICTURE", help="path, data: URL, or - for stdin")
    parser.add_argument(
        "--output", metavar="PNG", help="the drawing; by default here, named after the picture"
    )


def _sizes(args: argparse.Namespace) -> tuple[MM1Config, Path | None]:
    """Return the configuration that the flags name, and its folder if it has one."""
    from mm1_mlx.checkpoint.hub import find_folder
    from mm1_mlx.checkpoint.load import read_config

    if args.preset is not None:
        return preset(args.preset), None
    folder = find_folder(args.model)
    return read_config(folder), folder


def _encoder_of(folder: Path, config: MM1Config) -> dict[str, Any]:
    """Return the argument of ``find_sight`` that encodes position tags, if the model has them."""
    if config.image_config.position_tags == "none":
        return {}
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    from mm1_mlx.checkpoint.tokenizer import explain_tokenizer_errors

    with explain_tokenizer_errors(folder):
        tokenizer = load_tokenizer(folder, {"trust_remote_code": False})
    return {"encode": lambda text: tokenizer.encode(text, add_special_tokens=False)}


def _open(args: argparse.Namespace, config: MM1Config) -> Image.Image:
    from mm1_mlx.inputs.picture import open_picture

    return open_picture(args.picture, alpha=config.image_config.alpha, max_pixels=args.max_image_pixels)


def _name(args: argparse.Namespace) -> str:
    from mm1_mlx.inputs.sources import is_path, to_path

    return to_path(args.picture).name if args.picture != "-" and is_path(args.picture) else "the picture"


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()

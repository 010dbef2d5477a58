"""Convert from start to end: read the source, check it, write the model folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import mlx.core as mx

from mm1_mlx.arrays import main_dtype, name_dtype
from mm1_mlx.checkpoint.card import CardFacts, describe_parts, model_card, source_license
from mm1_mlx.checkpoint.chat_template import FILE, PLACES, find_chat_template
from mm1_mlx.checkpoint.hub import EMBEDDED
from mm1_mlx.checkpoint.quantize import Packing, quantization_config
from mm1_mlx.checkpoint.save import COMPANIONS, KIND
from mm1_mlx.config import MM1Config
from mm1_mlx.errors import CheckpointError, ConfigError, MM1Error
from mm1_mlx.files.json_files import write_json
from mm1_mlx.files.writing import new_folder

from .gguf_file import is_gguf
from .hub import find_source, public_name
from .recipe import ORIGIN, PREPROCESSOR, Options, Recipe, shapes_of
from .source_config import SourceConfig, read_json
from .sources import SOURCES
from .sources.assemble import assemble
from .tokenizers import SETTINGS, TOKENIZER_FILES, load_tokenizer, write_settings
from .vocabulary import write_token
from .writer import Plan, make_plan, require_disk_space, write_weights

FOR_A_NEW_MODEL = (
    "keep_connector",
    "decoder",
    "add_image_token",
    "connector",
    "num_visual_tokens",
    "feature_layer",
    "seed",
)
UNUSED = {"qh360vl": (), "mm1": ("encoder", "tokenizer", "image_token")}


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    folder: Path
    plan: Plan

    @property
    def notes(self) -> tuple[str, ...]:
        return self.plan.recipe.notes


def convert(
    source: str | None,
    output: str | Path,
    *,
    kind: str | None = None,
    options: Options | None = None,
    dtype: str | mx.Dtype | None = None,
    packing: Packing | None = None,
    overwrite: bool = False,
    name: str | None = None,
) -> Converted:
    """Turn a public PyTorch checkpoint into a model folder.

    Args:
        source: a folder, hub id or "mm1-tiny"; None assembles a new model from ``options``.
        output: the folder to make; it appears complete or not at all.
        kind: name of the source's module; by default it is found from the folder.
        options: facts that the source folder does not state.
        dtype: "float16", "bfloat16" or "float32", or MLX's own; None keeps the stored type.
        packing: quantize while writing.
        overwrite: replace ``output`` where it exists.
        name: name of the result in the model card; by default that of the output folder.

    Raises:
        MM1Error: the source is not one of those known, is incomplete or damaged, or there is no room.
    """
    options = options or Options()
    if source is None:
        if kind is not None:
            raise CheckpointError("`kind` names the layout of SOURCE, and there is none; drop it.")
        recipe = assemble(options)
        label = " + ".join(
            public_name(name) for name in (options.encoder, options.decoder) if name is not None
        )
    else:
        _require_used(options, FOR_A_NEW_MODEL)
        recipe = read_source(EMBEDDED.get(source) or find_source(source), kind, options)
        _require_used(options, UNUSED.get(recipe.source, ("encoder",)))
        label = public_name(source)
    if options.alpha is not None:
        image = recipe.config.image_config.changed(alpha=options.alpha)
        recipe = replace(recipe, config=replace(recipe.config, image_config=image))
    local = source is not None and Path(source).exists()
    facts = {"name": name or Path(output).name, "source": label, "checked_with": "SOURCE" if local else label}
    return write(recipe, Path(output), dtype=dtype, packing=packing, overwrite=overwrite, facts=facts)


def _require_used(options: Options, unused: tuple[str, ...]) -> None:
    """Refuse options that do not apply to this conversion."""
    for name in unused:
        if getattr(options, name) != getattr(Options, name):
            raise CheckpointError(f"`{name}` has no say in the conversion of this SOURCE; drop it.")


def read_source(folder: Path, kind: str | None, options: Options) -> Recipe:
    """Read the folder with the module of its layout.

    Raises:
        CheckpointError: no module knows it.
    """
    if is_gguf(folder):
        raise CheckpointError(
            f"{folder} is a GGUF file, which holds a decoder alone; give it as `decoder`, with an `encoder`."
        )
    config = read_json(folder / "config.json")
    module = _module(config, kind, folder)
    try:
        return module.read(folder, config, options)
    except MM1Error as error:
        if str(folder) in str(error):
            raise
        raise type(error)(f"{folder}: {error}") from None


def _module(config: SourceConfig, kind: str | None, folder: Path) -> ModuleType:
    for name, module in SOURCES.items():
        if module.matches(config):
            if kind not in (None, name):
                raise CheckpointError(f"{folder}: config.json is {name}'s, not {kind}'s; drop `kind`.")
            return module
    if kind is not None:
        return SOURCES[kind]
    raise CheckpointError(
        f"{folder}: this layout is not known: model_type is {config.values.get('model_type')!r}, architectures "
        f"{config.values.get('architectures')}, keys {', '.join(sorted(config.values)[:8])}. Known are "
        f"{', '.join(SOURCES)} (`kind` names one); an encoder and a decoder of their own go together with "
        "`encoder` and `decoder`."
    )


def write(
    recipe: Recipe,
    output: Path,
    *,
    dtype: str | mx.Dtype | None = None,
    packing: Packing | None = None,
    overwrite: bool = False,
    facts: Mapping[str, str],
) -> Converted:
    """Write the model folder of a recipe; ``facts`` are the card's name and source.

    Raises:
        MM1Error: a tensor does not fit, the output exists, or there is no room.
    """
    dtype = name_dtype(dtype)
    for folder in {*recipe.origins, *recipe.companions}:
        require_other_folder(folder, output)
    recipe = _find_template(
        replace(recipe, config=MM1Config.from_dict(recipe.config.to_dict()))
    )  # checks types
    try:
        plan = make_plan(recipe, dtype=getattr(mx, dtype) if dtype else None, packing=packing)
    except ConfigError as error:
        raise ConfigError(f"{recipe.origins[-1]}: {error}") from None
    require_disk_space(output.absolute().parent, plan.nbytes)
    with new_folder(output, overwrite=overwrite, kind=KIND) as folder:
        _write_tokenizer(recipe, folder)
        config = recipe.config
        if packing is not None:
            described = quantization_config(packing, plan.packing)
            config = replace(config, quantization=described, quantization_config=described)
        write_json(folder / "config.json", config.to_dict())
        _write_origin(recipe, folder)
        write_weights(plan, folder, progress_bar)
        (folder / "README.md").write_text(_card(recipe, plan, facts), encoding="utf-8")
    return Converted(output, plan)


def _find_template(recipe: Recipe) -> Recipe:
    """Return the recipe with the chat template that its folders have, or with a note that there is none."""
    template = recipe.chat_template or find_chat_template(*recipe.companions)
    if template is not None:
        return replace(recipe, chat_template=template)
    note = f"No chat template was found (in {', '.join(PLACES)}): prompts will be read as plain text."
    return replace(recipe, notes=(*recipe.notes, note))


def require_other_folder(source: Path, output: Path) -> None:
    """Refuse an output that would replace its own source.

    Raises:
        CheckpointError: ``output`` is ``source``, or holds it.
    """
    if source.resolve().is_relative_to(output.resolve()):
        what = (
            "is the source itself" if source.resolve() == output.resolve() else f"holds the source {source}"
        )
        raise CheckpointError(f"{output} {what}; choose another `output`.")


def _write_origin(recipe: Recipe, folder: Path) -> None:
    """Write what the conversion back needs: the source's name, its configurations and its tensors' shapes."""
    if recipe.source == "mm1":  # its own source stays recorded
        if (recipe.companions[0] / ORIGIN).exists():
            shutil.copyfile(recipe.companions[0] / ORIGIN, folder / ORIGIN)
        return
    parts = []
    for part in recipe.parts:
        shapes = {name: shape for name, shape in shapes_of(part.tensors).items() if name in part.table.moves}
        parts.append({"subfolder": part.subfolder, "config": dict(part.source_config), "shapes": shapes})
    write_json(
        folder / ORIGIN, {"source": recipe.source, "base_models": list(recipe.base_models), "parts": parts}
    )


def _card(recipe: Recipe, plan: Plan, facts: Mapping[str, str]) -> str:
    """Return the model card of a recipe's folder."""
    return model_card(
        CardFacts(
            name=facts["name"],
            source=facts["source"],
            checked_with=facts["checked_with"],
            base_models=list(recipe.base_models),
            license=_license(recipe),
            parts=describe_parts(recipe.config),
            dtype=str(plan.dtype or main_dtype(plan.forms.values())).removeprefix("mlx.core."),
            bits_per_weight=plan.bits_per_weight if plan.packing else None,
            untrained=recipe.config.untrained,
            parity=None,
        )
    )


def _license(recipe: Recipe) -> dict[str, str | list[str]]:
    """Return the licence of all sources; where they differ, their names."""
    stated = [source_license(folder) for folder in recipe.origins]
    if all(one == stated[0] for one in stated):
        return stated[0]
    names = [one.get("license_name", one.get("license", "not-stated")) for one in stated]
    each = [name for one in names for name in (one if isinstance(one, list) else [one])]
    return {"license": "other", "license_name": "-and-".join(dict.fromkeys(each))}


def _write_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Write the first companion's tokenizer files, and the generation settings and licences of any companion."""
    first = recipe.companions[0]
    for name in COMPANIONS:
        if name != "generation_config.json" and (first / name).exists():
            shutil.copyfile(first / name, folder / name)
    if (first / SETTINGS).exists():
        write_settings(first, folder)
    if not (folder / TOKENIZER_FILES[0]).exists():
        load_tokenizer(first).save_pretrained(folder)  # so that reading it needs no SentencePiece
    if recipe.added_token is not None:
        write_token(folder, recipe.added_token, recipe.config.image_token_id)
    if recipe.chat_template is not None:
        (folder / FILE).write_text(recipe.chat_template, encoding="utf-8")
    for number, origin in enumerate(recipe.origins):
        for path in origin.glob("LICENSE*"):
            if path.is_file():
                shutil.copyfile(path, folder / (f"{path.name}-{number + 1}" if number else path.name))
    for companion in recipe.companions:
        if (companion / PREPROCESSOR).exists():  # the conversion back needs it, `load` does not
            shutil.copyfile(companion / PREPROCESSOR, folder / PREPROCESSOR)
        settings = companion / "generation_config.json"
        if settings.exists() and not (folder / settings.name).exists():
            values = read_json(settings).values
            if recipe.config.eos_token_id is not None:
                values = {**values, "eos_token_id": recipe.config.to_dict()["eos_token_id"]}
            write_json(folder / settings.name, values)


def progress_bar(shard: str, names: list[str]) -> Iterator[str]:
    """Show a bar on stderr while the tensors of one shard are taken."""
    from tqdm import tqdm

    return iter(tqdm(names, desc=shard, unit=" tensors", leave=True))

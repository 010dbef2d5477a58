"""A pre-training recipe: a model to begin with, and the stages in which it is trained."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from mm1_mlx.config import DecoderConfig
from mm1_mlx.data.mixture import identify_sources, weights_of
from mm1_mlx.data.sources import SourceSettings
from mm1_mlx.errors import ConfigError
from mm1_mlx.files.yaml_files import read_mapping, use_underscores
from mm1_mlx.settings import EMBEDDED_MODEL
from mm1_mlx.strict import Config, shown
from mm1_mlx.training.options import RunOptions
from mm1_mlx.training.recipe import PART_NAMES, Part, Recipe

Kind = Literal["contrastive", "pretraining", "sft"]

LONGEST_NAME = 255  # bytes of a folder's name
CAPTIONS = "captions"  # the one source of the recipe that a contrastive stage uses
SECTIONS = ("vision_config", "connector_config", "text_config", "image_config")
Values = dict[str, Any]


@dataclass(frozen=True)
class ModelSource(Config):
    """Where the model of a recipe comes from: a whole model folder, or parts, of which some may be new.

    A new part has random weights, drawn with the recipe's seed. Its sizes are those of ``preset``, changed by the
    sections that are given; with complete sections no preset is needed.
    """

    called: ClassVar[str] = "model"

    folder: str | None = None  # a model folder or hub id; it excludes all other settings
    preset: str | None = None  # sizes of all parts, by name, such as "mm1-tiny" or "mm1-3b"
    image_encoder: str | None = None  # a model folder whose image encoder is taken
    decoder: str | None = None  # a model folder whose decoder is taken, with its tokenizer
    tokenizer: str | None = None  # a folder with the tokenizer of a new decoder
    image_token_id: int | None = None  # needed where the tokenizer's folder does not give it
    vision_config: dict | None = None  # this and the next three: changes to sizes, in the form of config.json
    connector_config: dict | None = None
    text_config: dict | None = None
    image_config: dict | None = None

    def __post_init__(self) -> None:
        others = [f.name for f in fields(self) if f.name != "folder" and getattr(self, f.name) is not None]
        self._require(
            self.folder is None or not others,
            f"folder is a whole model, so {', '.join(others)} cannot be given beside it.",
        )
        self._require(
            self.decoder is None or self.tokenizer is None,
            f"the decoder of {self.decoder} reads with its own tokenizer; leave out tokenizer {self.tokenizer}, whose "
            "vocabulary is another.",
        )
        for name, source in (("vision_config", self.image_encoder), ("text_config", self.decoder)):
            self._require(
                source is None or getattr(self, name) is None,
                f"{name} is that of {source}, whose weights are taken; leave it out.",
            )


@dataclass(frozen=True)
class ContrastiveSettings(Config):
    """The text tower that is trained together with the image encoder, and the loss that compares the two."""

    hidden_dims: int  # width of the text tower
    feed_forward_dims: int
    num_layers: int
    num_heads: int
    embedding_dims: int  # width of the space in which pictures and texts meet
    loss: Literal["clip", "siglip"] = "clip"
    chunk_size: int = 64  # pairs computed together; the loss is over all of an update
    max_text_length: int = 77  # tokens of a caption, CLIP's; longer ones are cut

    def __post_init__(self) -> None:
        self._require_positive("embedding_dims", "chunk_size", "num_heads")
        self._require(
            self.max_text_length > 1, f"max_text_length is {self.max_text_length}, expected at least 2."
        )
        self._require(
            self.hidden_dims % self.num_heads == 0,
            f"hidden_dims is {self.hidden_dims}, not a multiple of num_heads {self.num_heads}.",
        )
        self.tower(1)

    def tower(self, vocab_size: int) -> DecoderConfig:
        """Return the configuration of the text tower: one of our decoders, causal, with rotary positions."""
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_dims=self.hidden_dims,
            feed_forward_dims=self.feed_forward_dims,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dims=self.hidden_dims // self.num_heads,
            max_positions=self.max_text_length,
            rope_theta=10_000.0,
            norm_eps=1e-5,
            tied_head=True,
        )


@dataclass(frozen=True)
class Stage(Config):
    """One stage: which parts learn from which rows, and how. In a file, the ``given`` keys are among the others."""

    called: ClassVar[str] = "stage"

    name: str
    kind: Kind = "pretraining"
    start: str | None = None  # an earlier stage, a model folder or hub id; None means the previous stage
    train: tuple[Part, ...] | None = (
        None  # parts that learn, in full; None means all that this kind can train
    )
    sources: dict | None = None  # sources to learn from, by name; None means the recipe's
    valid: dict | None = None  # sources of held-out rows, by name
    mix: str | None = None  # mix that sets the shares of sources without a weight; None means the recipe's
    image: dict | None = None  # changes to image_config, such as a larger image_size
    contrastive: ContrastiveSettings | None = None  # only in a contrastive stage
    options: RunOptions = field(default_factory=RunOptions)
    given: dict = field(default_factory=dict)  # settings of ``Recipe`` that the file gives

    def __post_init__(self) -> None:
        self._require(
            bool(self.name) and Path(self.name).name == self.name and not self.name.startswith("."),
            f"name is {self.name!r}, expected the name of a folder.",
        )
        self._require(
            self.name.isprintable() and len(self.name.encode()) <= LONGEST_NAME,
            f"name is {shown(self.name)}, expected at most {LONGEST_NAME} bytes of letters, digits and signs.",
        )
        is_contrastive = self.kind == "contrastive"
        self._require(
            is_contrastive == (self.contrastive is not None),
            "kind contrastive needs the section contrastive, and no other kind has it.",
        )
        self._require(
            self.train is None or not is_contrastive,
            "train is not for a contrastive stage, in which the image encoder learns.",
        )
        self._require(
            self.train != (), "train is empty, so nothing would learn; name parts, or leave it out."
        )
        lacking = [name for name in ("iters", "batch_size") if name not in self.given]
        self._require(not lacking, f"{' and '.join(lacking)} must be given.")
        self._require(
            "skip_bad" not in self.given,
            "skip_bad is not for a mixture; max_bad_rows of a source says how many are left out.",
        )
        self._require(
            self.valid is None or self.options.val_batches > 0,
            "val_batches is -1, but a mixture has no end; give a number.",
        )
        recipe = self.recipe({})
        self._require(
            not is_contrastive or recipe.rows_per_update > 1,
            "batch_size is 1, expected at least 2: a picture is told from the others of its update.",
        )
        self._require(
            not (is_contrastive and recipe.shard),
            "shard is not for a contrastive stage; its processes have the whole of both towers.",
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the model that learn, by the names of their attributes."""
        if self.kind == "contrastive":
            return ("image_encoder",)
        return tuple(part for name, part in PART_NAMES.items() if self.train is None or name in self.train)

    def identity(self) -> Values:
        """Return what identifies the stage besides its settings and rows; if it changes, the stage cannot be resumed."""
        contrastive = None if self.contrastive is None else self.contrastive.to_dict()
        return {"kind": self.kind, "parts": list(self.parts), "image": self.image, "contrastive": contrastive}

    def recipe(self, defaults: Values) -> Recipe:
        """Return all settings of the run: those that the file gives, and ``defaults`` for the rest."""
        return Recipe.from_dict(defaults | self.given)

    @classmethod
    def from_dict(cls, values: Any) -> Stage:
        """Build a stage from a mapping that has all its keys on one level.

        Raises:
            ConfigError: a key is unknown or missing, or a value is of the wrong type.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"a stage is {shown(values)}, expected keys and values.")
        values = use_underscores(values)
        homes = {"given": _names(Recipe), "options": _names(RunOptions)}
        own = _names(cls) - set(homes)
        known = own.union(*homes.values())
        for key in values:
            if key not in known:
                raise ConfigError(f"a stage has an unknown key {key!r}.{_suggest(key, known)}")
        inner = {home: {k: v for k, v in values.items() if k in names} for home, names in homes.items()}
        read = {key: _sources(values[key]) for key in ("sources", "valid") if values.get(key) is not None}
        return super().from_dict({k: v for k, v in values.items() if k in own} | inner | read)


@dataclass(frozen=True)
class PretrainingRecipe(Config):
    """The contents of a recipe file."""

    called: ClassVar[str] = "recipe"

    model: ModelSource
    stages: tuple[Stage, ...]
    sources: dict | None = None  # for stages that have none of their own
    mix: str = "mm1"  # mix that sets the shares of sources without a weight
    seed: int = 0  # of new weights and of the first stage; each later stage has the next number
    dtype: Literal["bfloat16", "float32"] = (
        "float32"  # in 16 bits, small updates are lost; float16 fails in Adam
    )

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(bool(self.stages), "there are no stages; write at least one.")
        names = [stage.name for stage in self.stages]
        folders = [name.casefold() for name in names]  # on a Mac's disk, One and one are the same folder
        for number, stage in enumerate(self.stages):
            first = folders.index(folders[number])
            self._require(
                first == number,
                f"stages {first + 1} and {number + 1} are both called {names[first]!r}; rename one.",
            )
            self._check_start(stage.start, stage.name, names[:number])
            try:
                self.weights(stage)
                if stage.valid is not None:
                    self.weights(stage, valid=True)
            except ConfigError as error:
                raise ConfigError(f"stage {stage.name}: {error}") from None

    def _check_start(self, start: str | None, name: str, earlier: list[str]) -> None:
        """Refuse a start that names no earlier stage and cannot be a model either."""
        if start is None or start in earlier or start == EMBEDDED_MODEL or "/" in start:
            return
        there = f"the earlier ones are {', '.join(earlier)}" if earlier else "there is none before it"
        near = difflib.get_close_matches(start, earlier, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"stage {name!r} starts from {start!r}, which names no earlier stage ({there}) and no model folder.{hint}"
        )

    def sources_of(self, stage: Stage) -> dict[str, SourceSettings]:
        """Return the sources that a stage learns from: its own, or else the recipe's.

        A contrastive stage without sources of its own uses only the recipe's source of captions.

        Raises:
            ConfigError: there are no sources.
        """
        if stage.sources is not None:
            return stage.sources
        if stage.kind == "sft":
            raise ConfigError("instruction tuning needs sources of its own, with conversations or questions.")
        if self.sources is None:
            raise ConfigError("it has no sources, nor has the recipe; name them under sources.")
        if stage.kind == "pretraining":
            return self.sources
        if CAPTIONS not in self.sources:
            raise ConfigError(f"it has no sources, and none of the recipe's is called {CAPTIONS}; name some.")
        return {CAPTIONS: replace(self.sources[CAPTIONS], weight=None)}

    def weights(self, stage: Stage, *, valid: bool = False) -> dict[str, float]:
        """Return each source's share of a stage's rows.

        Args:
            stage: a stage of this recipe.
            valid: return the shares of its held-out rows, which it must have.

        Raises:
            ConfigError: the shares do not sum to 1, or there are no sources.
        """
        sources = stage.valid if valid and stage.valid is not None else self.sources_of(stage)
        return weights_of(sources, stage.mix or self.mix)

    def identify_sources(self, stage: Stage) -> Values:
        """Return the identity and share of each source that a stage reads; with others it cannot be resumed."""
        return identify_sources(self.sources_of(stage), self.weights(stage))

    def seed_of(self, stage: Stage) -> int:
        """Return the stage's own seed, so that no two stages draw the same rows in the same order."""
        return stage.given.get("seed", self.seed + self.stages.index(stage))

    def find_stage(self, name: str) -> Stage:
        """Return the stage of this name.

        Raises:
            ConfigError: there is no stage of this name.
        """
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ConfigError(f"`stage` {name} is not in the recipe.{_suggest(name, set(names))}")
        return self.stages[names.index(name)]

    def stage_before(self, stage: Stage) -> Stage | None:
        """Return the earlier stage that a stage starts from, or None where it starts from a model."""
        number = self.stages.index(stage)
        if stage.start is None:
            return self.stages[number - 1] if number else None
        return next((found for found in self.stages[:number] if found.name == stage.start), None)

    @classmethod
    def from_dict(cls, values: Any) -> PretrainingRecipe:
        """Build a recipe from a parsed file, in which ``model`` may also be just the name of a model.

        Raises:
            ConfigError: a key or value is wrong; the message names its stage.
        """
        if isinstance(values, dict) and values.get("sources") is not None:
            values = values | {"sources": _sources(values["sources"])}
        if isinstance(values, dict) and isinstance(values.get("model"), str):
            values = values | {"model": {"folder": values["model"]}}
        if isinstance(values, dict) and isinstance(values.get("stages"), list):
            values = values | {
                "stages": list(map(_stage, values["stages"], range(1, len(values["stages"]) + 1)))
            }
        return super().from_dict(values)


def read_recipe(path: Path) -> PretrainingRecipe:
    """Read a recipe file.

    Raises:
        ConfigError: the file cannot be read, or a setting in it is unknown, missing or contradicts another one.
    """
    values = read_mapping(path, str(path), "model and stages")
    try:
        return PretrainingRecipe.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _sources(values: Any) -> dict[str, SourceSettings]:
    """Build the settings of sources, by name, from parsed values."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"sources are {shown(values)}, expected names, and for each path, hub or generator."
        )
    found = {}
    for name, source in values.items():
        try:
            found[str(name)] = SourceSettings.from_dict(source)
        except ConfigError as error:
            raise ConfigError(f"source {name}: {error}") from None
    return found


def _stage(values: Any, number: int) -> Stage:
    try:
        return Stage.from_dict(values)
    except ConfigError as error:
        name = values.get("name") if isinstance(values, dict) else None
        raise ConfigError(f"stage {number}{f' ({name})' if name else ''}: {error}") from None


def _names(kind: type[Config]) -> set[str]:
    return {found.name for found in fields(kind)}


def _suggest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f" Did you mean {near[0]}?" if near else f" There are {', '.join(sorted(known))}."

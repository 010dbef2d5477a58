"""The tiny world: rendered scenes with captions, questions and answers, and the model that lives in it."""

from mm1_mlx.tiny.conversations import Sequence, make_sequence
from mm1_mlx.tiny.fetching import fetch
from mm1_mlx.tiny.questions import KINDS, Question, caption, make_question
from mm1_mlx.tiny.regions import COLOR_LABELS, KIND_LABELS, SIZE_LABELS, region_labels, region_words
from mm1_mlx.tiny.scene_batch import SceneBatch
from mm1_mlx.tiny.stock import PictogramClass, Stock
from mm1_mlx.tiny.tasks import tiny_tasks
from mm1_mlx.tiny.tokenizer import IMAGE_ID, PAD_ID, VOCAB_SIZE, train_tokenizer
from mm1_mlx.tiny.world import PICTURE_SIZE, TESTING_SEEDS, TRAINING_SEEDS, Scene, Thing, make_scene, render

__all__ = [
    "COLOR_LABELS",
    "IMAGE_ID",
    "KINDS",
    "KIND_LABELS",
    "PAD_ID",
    "PICTURE_SIZE",
    "SIZE_LABELS",
    "TESTING_SEEDS",
    "TRAINING_SEEDS",
    "VOCAB_SIZE",
    "PictogramClass",
    "Question",
    "Scene",
    "SceneBatch",
    "Sequence",
    "Stock",
    "Thing",
    "caption",
    "fetch",
    "make_question",
    "make_scene",
    "make_sequence",
    "region_labels",
    "region_words",
    "render",
    "tiny_tasks",
    "train_tokenizer",
]

"""The metrics of captions and answers, in plain Python and NumPy.

CIDEr-D and BLEU are those of ``pycocoevalcap``, on captions as written; VQA accuracy is that of its authors' program or
of lmms-eval. METEOR is left out: it needs Java and a table of paraphrases of its own, and MM1 reports CIDEr.
"""

from mm1_mlx.evaluation.answers import exact_match, vqa_accuracy
from mm1_mlx.evaluation.bleu import bleu
from mm1_mlx.evaluation.cider import cider
from mm1_mlx.evaluation.intervals import Interval, bootstrap_interval
from mm1_mlx.evaluation.ptb import ptb_tokens

__all__ = [
    "Interval",
    "bleu",
    "bootstrap_interval",
    "cider",
    "exact_match",
    "ptb_tokens",
    "vqa_accuracy",
]

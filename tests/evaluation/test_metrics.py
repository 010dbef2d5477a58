"""The face of the metrics."""

import subprocess
import sys

from mm1_mlx.evaluation import metrics


def test_all_metrics_are_there():
    assert [name for name in metrics.__all__ if not callable(getattr(metrics, name))] == []


def test_metrics_need_no_mlx():
    code = (
        "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None\n"
        "from mm1_mlx.evaluation.metrics import cider\n"
        "cider({'a': 'a dog'}, {'a': ['a cat']})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""A run's losses as a picture, and on their way to other services."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from mm1_mlx.errors import UsageError
from mm1_mlx.seeing.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from mm1_mlx.training.curve import draw_curve, draw_losses
from mm1_mlx.training.reporters import Reporter


def test_the_line_goes_from_the_first_loss_to_the_last():
    image = np.asarray(draw_losses([(1, 4.0), (100, 1.0)], []))
    blue = (image == (0x1D, 0x6F, 0xD1)).all(axis=-1)
    rows, columns = np.nonzero(blue[TOP - 10 :])
    first, last = columns.argmin(), columns.argmax()
    assert abs(rows[first] + TOP - 10 - TOP) < 6
    height = HEIGHT - TOP - BOTTOM
    assert abs(rows[last] + TOP - 10 - (HEIGHT - BOTTOM - height / 4)) < 6
    assert abs(columns[last] - (WIDTH - RIGHT)) < 4 and columns[first] > LEFT


def test_validation_is_points():
    image = np.asarray(draw_losses([(1, 4.0), (2, 2.0)], [(0, 3.0), (2, 2.5)]))
    red = (image == (0xD6, 0x28, 0x39)).all(axis=-1)
    assert red[TOP:].sum() > 60


def test_the_picture_is_beside_the_metrics(tmp_path):
    lines = [{"update": 0, "val_loss": 5.0}, {"update": 10, "loss": 4.0}, {"update": 20, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with Image.open(draw_curve(tmp_path)) as drawn:
        assert drawn.size == (WIDTH, HEIGHT)


def test_a_run_without_a_report_has_no_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 0, "val_loss": 5.0}\n')
    assert draw_curve(tmp_path) is None


def test_metrics_go_to_a_service_in_mlx_lms_names(tmp_path, monkeypatch):
    from mlx_lm.tuner import callbacks

    sent = []
    service = types.SimpleNamespace(
        init=lambda **about: sent.append(about), log=lambda *a, **o: sent.append((a, o))
    )
    monkeypatch.setattr(callbacks, "wandb", service)
    reporter = Reporter("wandb", "pictures", tmp_path / "german", {"rank": 8})
    reporter.report({"update": 3, "loss": 0.5})
    reporter.report({"update": 3, "val_loss": 0.7})
    reporter.report({"update": 4, "mixture": {"text": {"rows": 0.1}}})
    assert (
        sent[0]["project"] == "pictures" and sent[0]["name"] == "german" and sent[0]["config"] == {"rank": 8}
    )
    assert sent[1] == (({"iteration": 3, "train_loss": 0.5},), {"step": 3})
    assert sent[2] == (({"iteration": 3, "val_loss": 0.7},), {"step": 3})
    assert sent[3] == (({"iteration": 4, "mixture.text.rows": 0.1},), {"step": 4})


@pytest.mark.parametrize(
    ("services", "words"), [("nowhere", "doesn't exist"), ("swanlab", "pip install swanlab")]
)
def test_a_service_that_is_not_there_is_a_usage_error(tmp_path, services, words):
    with pytest.raises(UsageError, match=rf"`report_to` {services}: .*{words}"):
        Reporter(services, None, tmp_path, {})


def test_no_service_is_no_error(tmp_path):
    Reporter("", None, tmp_path, {}).report({"update": 1, "loss": 1.0})

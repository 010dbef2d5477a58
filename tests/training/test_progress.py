"""What a person reads of a report."""

from mm1_mlx.training.progress import describe_report

LINE = {
    **{"update": 20, "loss": 1.25, "learning_rate": 1e-4, "tokens_per_second": 1500.0, "padding": 0.02},
    **{"pictures_per_second": 31.5, "data_wait": 0.001, "peak_memory": 230_000_000},
}


def test_a_report_tells_loss_speed_and_memory():
    assert describe_report(LINE) == (
        "update 20: loss 1.2500, learning rate 1.00e-04, 1,500 tokens/s, 31.5 pictures/s, 2.0 % padding, "
        "0.1 % waiting for data, peak memory 0.23 GB"
    )


def test_tokens_are_left_out_where_a_task_has_none():
    told = describe_report(LINE | {"tokens_per_second": 0.0, "padding": 1.0})
    assert "tokens" not in told and "padding" not in told and "31.5 pictures/s" in told

import numpy as np
from small_models import ANYRES, SMALL

from mm1_mlx.seeing.attention import Word
from mm1_mlx.seeing.boxes import find_sight
from mm1_mlx.seeing.tables import responses_table, views_table, words_table


def test_views_are_listed_with_what_comes_between_and_the_total():
    lines = views_table(find_sight((90, 20), ANYRES), 512).splitlines()
    assert lines[1].split()[:2] == ["1", "whole"] and lines[2].split()[:3] == ["2", "1", "1"]
    counts = [int(line.split()[-1]) for line in lines[1:-1]]
    assert lines[-2].startswith("ends of rows")
    assert lines[-1] == f"{sum(counts)} tokens, {100 * sum(counts) / 512:.1f} % of the context"


def test_the_share_of_a_response_is_that_of_patches_inside_the_tokens_part():
    seen = find_sight((16, 16), SMALL)
    boxes = seen.views[0].patch_boxes()
    maps = {1: [(box, 3.0 if number == 0 else 1.0) for number, box in enumerate(boxes)]}
    line = responses_table(seen, maps).splitlines()[1]
    assert line.split()[:4] == ["1", "1", "1", "1"]
    assert line.endswith(f"{100 * 6 / 18:.1f} %")  # 4 of 16 patches, one of them three times the others


def test_a_words_share_is_the_sum_and_its_most_the_largest():
    seen = find_sight((90, 20), ANYRES)
    paid = np.full(len(seen.tokens), 0.01)
    paid[5] = 0.2
    end = paid.copy()
    end[seen.tokens.index(None)] = 0.5
    lines = words_table([Word(1, "red", paid), Word(2, "end", end)], seen).splitlines()
    assert lines[1].startswith("   1 red") and f"{100 * paid.sum():.1f} %" in lines[1]
    assert "token 6, view 2, row" in lines[1]
    assert lines[2].endswith("the end of a row")
    assert lines[0].endswith("most at (mean of all layers)")
    assert words_table([Word(1, "red", paid)], seen, 3).splitlines()[0].endswith("most at (layer 3)")

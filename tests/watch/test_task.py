import math

import pytest

from engine.watch.task import summary


def test_the_figures_of_a_matrix_by_hand():
    a = [[0.9, 0.3, 0.1], [0.6, 0.8, 0.2], [0.5, 0.7, 0.9]]
    found = summary(a, start=[0.1, 0.2, 0.1])
    assert found["acc"] == pytest.approx(0.7)
    assert found["bwt"] == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert found["fwt"] == pytest.approx(((0.3 - 0.2) + (0.2 - 0.1)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert found["anytime"] == pytest.approx((0.9 + 0.7 + 0.7) / 3)


def test_one_task_has_nothing_to_forget_and_odd_shapes_are_refused():
    one = summary([[0.4]])
    assert one["acc"] == one["anytime"] == 0.4
    assert math.isnan(one["bwt"]) and math.isnan(one["fwt"]) and math.isnan(one["forgetting"])
    with pytest.raises(ValueError, match="square"):
        summary([[1, 2]])

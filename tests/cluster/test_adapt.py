"""The adaptive plan: loosens while ranks wait, tightens when the loss rises, says why, and settles."""
from engine.cluster.adapt import HOLD, MOST, Measured, Pace, review


def test_waiting_loosens_step_by_step_and_says_why():
    pace, bounds = Pace(), []
    for _ in range(8):
        pace = review(pace, Measured(0.4, 0.5), 0.005)
        bounds.append(pace.bound)
    assert bounds[:5] == [1, 2, 4, 8, 16] and max(bounds) == MOST
    assert "40%" in review(Pace(), Measured(0.4, 0.5), 0.005).reason


def test_loss_beyond_the_budget_tightens_and_holds_off():
    pace = Pace(bound=4, loss=0.50)
    pace = review(pace, Measured(0.4, 0.51), 0.005)
    assert pace.bound == 2 and "0.5100 is more than 0.005 above 0.5000" in pace.reason
    for _ in range(HOLD - 1):
        pace = review(pace, Measured(0.4, 0.50), 0.005)
        assert pace.bound == 2 and not pace.reason
    assert review(pace, Measured(0.4, 0.50), 0.005).bound == 4


def test_content_ranks_go_back_to_lock_step_and_stay():
    pace = Pace(bound=2, loss=0.5)
    for _ in range(4):
        pace = review(pace, Measured(0.01, 0.5, stale=0.1), 0.005)
    assert pace.bound == 0
    assert review(pace, Measured(0.01, 0.48), 0.005).loss == 0.48
    assert not review(pace, Measured(0.10, 0.5), 0.005).bound

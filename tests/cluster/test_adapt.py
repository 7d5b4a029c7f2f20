"""The adaptive plan: loosens while ranks wait, tightens when the loss rises, says why, and settles."""
from engine.cluster.adapt import HOLD, LONGEST, MOST, Budget, Measured, Pace, review


def test_waiting_loosens_step_by_step_and_says_why():
    pace, bounds = Pace(), []
    for _ in range(8):
        pace = review(pace, Measured(0.4, 0.5), Budget())
        bounds.append(pace.bound)
    assert bounds[:5] == [1, 2, 4, 8, 16] and max(bounds) == MOST
    assert "40%" in review(Pace(), Measured(0.4, 0.5), Budget()).reason


def test_loss_beyond_the_budget_tightens_and_holds_off():
    pace = Pace(bound=4, loss=0.50, eased=True)
    pace = review(pace, Measured(0.4, 0.51), Budget())
    assert pace.bound == 2 and "0.5100 is more than 0.005 above 0.5000" in pace.reason
    for _ in range(HOLD - 1):
        pace = review(pace, Measured(0.4, 0.50), Budget())
        assert pace.bound == 2 and not pace.reason
    assert review(pace, Measured(0.4, 0.50), Budget()).bound == 4


def test_content_ranks_go_back_to_lock_step_and_stay():
    pace = Pace(bound=2, loss=0.5)
    for _ in range(4):
        pace = review(pace, Measured(0.01, 0.5, stale=0.1), Budget())
    assert pace.bound == 0
    assert review(pace, Measured(0.01, 0.48), Budget()).loss == 0.48
    assert not review(pace, Measured(0.10, 0.5), Budget()).bound


def test_staleness_is_first_met_by_smaller_steps_then_by_a_tighter_bound():
    worse = Measured(0.4, 0.51, stale=2.0)
    pace = review(Pace(bound=2, loss=0.50), worse, Budget())
    assert pace.eased and pace.bound == 2 and "above 0.5000" in pace.reason
    pace = review(pace, worse, Budget())
    assert pace.eased and pace.bound == 1
    pace = review(pace, worse, Budget())
    assert pace.bound == 0 and not review(pace, Measured(0.1, 0.5), Budget()).eased


def test_the_interval_follows_the_cost_of_exchanges_within_the_budget():
    pace, scales = Pace(), []
    for _ in range(6):
        pace = review(pace, Measured(0.0, 0.5, merge=0.4), Budget())
        scales.append(pace.scale)
    assert scales == [1, 2, 3, 4, LONGEST, LONGEST]
    pace = review(pace, Measured(0.0, 0.52, merge=0.4), Budget())
    assert pace.scale == LONGEST - 1 and pace.hold == HOLD and "0.5200" in pace.reason
    pace = review(pace, Measured(0.0, 0.5, merge=0.4), Budget())
    assert pace.scale == LONGEST - 1 and not pace.reason  # held
    assert review(pace, Measured(0.0, 0.5, merge=0.01), Budget()).scale == LONGEST - 2
    assert "exchanges take 40%" in review(Pace(), Measured(0.0, 0.5, merge=0.4), Budget()).reason


def test_news_is_within_the_asked_time_or_everything_is_as_tight_as_it_goes():
    """A model of a run whose news takes 10 ms and 5 ms a row of the interval, and more for each round of staleness."""
    def fresh(pace):
        return 0.010 + 0.005 * 8 * 2.0**pace.scale + 0.02 * pace.bound

    budget, pace = Budget(fresh_s=0.040), Pace(bound=4, loss=1.0)
    for _ in range(12):
        pace = review(pace, Measured(0.1, 0.5, 1.0, 0.1, fresh(pace)), budget, least=-3)
    assert fresh(pace) <= budget.fresh_s and pace.scale >= -3
    for _ in range(5):  # room enough for the present pace, not for twice the interval
        after = review(pace, Measured(0.1, 0.5, 0.0, 0.4, fresh(pace)), budget, least=-3)
        assert after.scale == pace.scale
        pace = after
    tight = review(Pace(scale=-3), Measured(0.1, 0.5, fresh_s=9.0), budget, least=-3)
    assert (tight.scale, tight.bound, tight.reason) == (-3, 0, "")

"""What `bench comm` holds measurements to."""
import pytest

comm = pytest.importorskip("bench.comm", reason="run from the root of the checkout")


def test_a_bound_leaves_what_bursts_of_different_ranks_do_not_share():
    slow = {(0, 3), (0, 4), (0, 5), (1, 30), (1, 31), (1, 32)}  # nine units each beyond the three of their rounds
    lock_step, none = comm.ideal(60, 2, slow, 0), comm.ideal(60, 2, slow, 60)
    assert lock_step == pytest.approx(60 / 78) and none == pytest.approx(60 / 69)
    found = [comm.ideal(60, 2, slow, bound) for bound in range(12)]
    assert found == sorted(found) and lock_step < found[4] < none
    assert comm.ideal(60, 2, set(), 4) == 1


def test_bursts_take_a_fifth_of_the_time():
    for lengths in ((3,), (1, 2, 3)):
        slow = comm.bursts(6000, 8, lengths)
        assert 0.18 < 4 * len(slow) / (6000 + 3 * len(slow)) < 0.22
        assert len({rank for rank, _ in slow}) == 8


@pytest.mark.parametrize(("count", "at"), [(31, 9), (9, 1), (6, 0), (3, 0)])
def test_the_lower_end_of_a_median_s_interval(count, at):
    """Of 31, the tenth least: a true median is below it with a probability of at most .025."""
    assert comm.lower([float(i) for i in range(count)][::-1]) == at

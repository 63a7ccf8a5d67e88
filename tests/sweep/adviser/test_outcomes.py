import pytest

from sweep.adviser.outcomes import Outcome, Rules


def test_a_loss_is_never_nan_and_never_missing() -> None:
    with pytest.raises(ValueError, match="a, draw 1: a loss is NaN; record the trial as failed"):
        Outcome("a", 1, "full", (float("nan"),), 1.0)
    with pytest.raises(ValueError, match="no losses"):
        Outcome("a", 1, "full", (), 1.0)
    with pytest.raises(ValueError, match="expected 'screen' or 'full', got 'half'"):
        Outcome("a", 1, "half", (1.0,), 1.0)


def test_an_infinite_loss_is_lost_like_a_failure() -> None:
    assert Outcome("a", 0, "full", (float("inf"),), 1.0).lost
    assert Outcome("a", 0, "full", (), 1.0, failed=True).lost
    assert not Outcome("a", 0, "full", (1.0,), 1.0).lost


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"criterion": "median"}, "criterion: expected 'mean' or 'lower-quantile', got 'median'"),
        ({"targets": ()}, "targets: expected at least one"),
        ({"targets": ("a", "b"), "matters": (1.0,)}, "matters: 1 numbers for 2 targets"),
        ({"matters": 0.0}, "matters: expected finite differences above 0"),
        ({"matters": float("inf")}, "matters: expected finite differences above 0"),
        ({"quantile": 0.7}, "quantile: expected more than 0 and at most 0.5, got 0.7"),
        ({"alpha": 0.0}, "alpha: expected more than 0"),
        ({"draws": 1}, "draws at least 2"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(budget=1.0, **fields)


def test_what_matters_is_a_tenth_of_a_draw_unless_it_is_said() -> None:
    assert Rules(budget=1).units([4.0]) == ((1.0,), 0.4)
    assert Rules(budget=1, matters=0.3).units([4.0]) == ((1.0,), 0.3)
    two = ("a", "b")
    assert Rules(budget=1, targets=two).units([4.0, 2.0]) == ((4.0, 2.0), 0.1)
    assert Rules(budget=1, targets=two, matters=0.3).units([4.0, 2.0]) == ((1.0, 1.0), 0.3)
    assert Rules(budget=1, targets=two, matters=(0.3, 0.1)).units([4.0, 2.0]) == ((0.3, 0.1), 1.0)

"""The estimators pass scikit-learn's own checks, but for those that no online learner passes."""
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.datasets import load_diabetes, load_digits, make_classification
from sklearn.linear_model import Ridge, SGDClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from engine.sklearn import Classifier, Regressor

WEIGHTS = "example by example, a weight is not the same as a row repeated in another place (as for SGDClassifier)"


def expected(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS, "check_sample_weight_equivalence_on_sparse_data": WEIGHTS}


@parametrize_with_checks([Classifier(), Regressor()], expected_failed_checks=expected)
def test_estimator(estimator, check):
    check(estimator)


def test_as_good_as_the_peers():
    x, y = load_digits(return_X_y=True)
    ours, theirs = (cross_val_score(make_pipeline(StandardScaler(), model), x, y, cv=3).mean()
                    for model in (Classifier(), SGDClassifier(loss="log_loss", random_state=0)))
    assert ours > theirs - 0.02
    x, y = load_diabetes(return_X_y=True)
    ours, theirs = (cross_val_score(model, x, y, cv=3).mean() for model in (Regressor(), Ridge(0.1)))
    assert ours > theirs - 0.05


def test_partial_fit_weights_and_sparse_rows():
    from scipy.sparse import csr_matrix

    x, y = make_classification(600, 12, n_informative=6, random_state=0)
    parts = Classifier(learner="ftrl")
    for start in range(0, 600, 100):
        parts.partial_fit(x[start:start + 100], y[start:start + 100], classes=[0, 1])
    whole = Classifier(learner="ftrl").partial_fit(x, y, classes=[0, 1])
    assert np.array_equal(parts.decision_function(x), whole.decision_function(x))
    again = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(again.partial_fit(x, y).decision_function(x), whole.partial_fit(x, y).decision_function(x))
    assert Classifier().fit(csr_matrix(x), y).score(x, y) > 0.75
    none = Classifier(epochs=1).fit(x, y, sample_weight=np.where(y == 1, 1.0, 0.0))
    assert (none.predict(x) == 1).all()
    with pytest.raises(ValueError, match="found"):
        whole.partial_fit(x, np.full(600, 7))

"""The models for River: learn_one and predict_one, its own checks, and its metrics."""
import random

import pytest

pytest.importorskip("river")
from river import datasets, evaluate, linear_model, metrics, optim, preprocessing

from engine.errors import DataError
from engine.river import Classifier, Regressor


def test_progressive_validation_is_as_good_as_rivers():
    def scaled(model):
        return preprocessing.StandardScaler() | model

    ours = evaluate.progressive_val_score(datasets.Phishing(), scaled(Classifier()), metrics.ROCAUC())
    theirs = evaluate.progressive_val_score(
        datasets.Phishing(), scaled(linear_model.LogisticRegression()), metrics.ROCAUC())
    assert ours.get() > theirs.get() - 0.01
    ours = evaluate.progressive_val_score(datasets.TrumpApproval(), scaled(Regressor()), metrics.MAE())
    theirs = evaluate.progressive_val_score(
        datasets.TrumpApproval(), scaled(linear_model.LinearRegression(optim.SGD(0.03))), metrics.MAE())
    assert ours.get() < 1.2 * theirs.get()


def test_river_checks():
    from river import checks

    for model in (Classifier(), Regressor()):
        for check in checks.yield_checks(model):
            check(model.clone())


def test_features_may_come_late_be_words_or_stay_away():
    model = Classifier(learner="ftrl", width=64)
    source = random.Random(1)
    for step in range(600):
        colour, wide = source.choice(["red", "blue"]), source.random() < 0.5
        x = {"colour": colour, "wide": wide, **({"late": 1.0} if step > 300 else {})}
        model.learn_one(x, colour == "red")
    assert model.predict_one({"colour": "red"}) is True and model.predict_one({"colour": "blue", "new": 3}) is False
    with pytest.raises(DataError, match="at most 64 features"):
        model.learn_one({str(i): 1 for i in range(70)}, True)
    words = Classifier()
    words.learn_one({"x": 1}, "spam")
    assert words.predict_one({"x": 1}) == "spam"
    words.learn_one({"x": -1}, "ham")
    with pytest.raises(DataError, match="'eggs'"):
        words.learn_one({"x": 0}, "eggs")

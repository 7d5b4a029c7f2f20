"""A life that ends in a test leaves its pulse beating, for its process goes on: a thread and handles until here."""
import pytest

from engine.survive import pulse


@pytest.fixture(autouse=True)
def stilled(monkeypatch):
    begun, made = pulse.Pulse.__init__, []

    def begin(self, *args, **more):
        begun(self, *args, **more)
        made.append(self)

    monkeypatch.setattr(pulse.Pulse, "__init__", begin)
    yield
    for one in made:
        one.done()

from random import Random

from mutations import examples, mutate

DATA = bytes(range(200))


def test_damage_is_decided_by_the_seed():
    damaged = [mutate(DATA, Random(seed)) for seed in range(50)]
    assert damaged == [mutate(DATA, Random(seed)) for seed in range(50)]
    assert sum(found != DATA for found in damaged) > 45


def test_nothing_and_one_byte_can_be_damaged():
    for seed in range(200):
        mutate(b"", Random(seed))
        mutate(b"x", Random(seed))


def test_the_variable_gives_minutes(monkeypatch):
    monkeypatch.delenv("MM1_FUZZ", raising=False)
    assert examples(100) == 100
    monkeypatch.setenv("MM1_FUZZ", "5")
    assert examples(100) == 2000

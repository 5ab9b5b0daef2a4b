import optuna
import pytest

from secateur.search import SAMPLERS, sampler_factory


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_name_gives_a_factory_of_fresh_samplers(name):
    known, factory = sampler_factory(name)
    assert known == name
    assert isinstance(factory(1), optuna.samplers.BaseSampler)
    assert factory(1) is not factory(1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_seeds_propose_alike(name):
    def first(seed):
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE] * 2, "toy")
        study = optuna.load_study(study_name="toy", storage=storage, sampler=SAMPLERS[name](seed))
        return [study.ask().suggest_int("x", 0, 10**6) for _ in range(3)]

    assert first(3) == first(3) != first(4)


def _quasi(seed):
    return optuna.samplers.RandomSampler(seed=seed)


def test_a_factory_is_known_by_where_it_lives():
    name, factory = sampler_factory(_quasi)
    assert name.endswith("._quasi") and factory is _quasi


@pytest.mark.parametrize(
    ("given", "error"),
    [("cmaes", ValueError), (optuna.samplers.RandomSampler(seed=0), TypeError), (3, TypeError)],
)
def test_what_is_neither_a_name_nor_a_factory_is_refused(given, error):
    with pytest.raises(error, match="random, tpe, nsga2, gp"):
        sampler_factory(given)

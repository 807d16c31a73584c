"""The conditional search space: prefixed parameter names, recipes, and the seeds of trials."""

from dataclasses import replace

import optuna
import pytest

from autotl.study.space import Choices, seed_of, suggest


@pytest.fixture(scope="module")
def choices(tiny, registry):
    """Two backbones, all built-in strategies and heads."""
    backbones = (tiny("test_efficientnet").name, tiny("test_vit").name)
    heads = "linear mlp logistic_regression linear_svm rbf_svm knn lda random_forest extra_trees hist_gradient_boosting"
    heads += " ridge kernel_ridge"
    return Choices(backbones, ("fast_extraction", "extract_augment", "fine_tuning"), tuple(heads.split()), 1600, 3)


@pytest.fixture(params=[False, True], ids=["cpu", "accelerator"])
def choices_of_device(request, choices):
    return replace(choices, accelerator=request.param)


def random_trials(choices, registry, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(n):
        trial = study.ask()
        yield trial, suggest(trial, choices, registry, study_seed=5)


def test_every_parameter_is_prefixed_with_its_owner(choices_of_device, registry):
    for trial, recipe in random_trials(choices_of_device, registry):
        owners = {name.partition(".")[0] for name in trial.params}
        assert (
            {"strategy", "backbone", recipe.strategy}
            <= owners
            <= {"strategy", "backbone", recipe.strategy, recipe.head}
        )


def test_a_recipe_holds_the_parameters_of_its_trial(choices_of_device, registry):
    for trial, recipe in random_trials(choices_of_device, registry):
        assert (recipe.strategy, recipe.backbone) == (trial.params["strategy"], trial.params["backbone"])
        assert recipe.head == trial.params[f"{recipe.strategy}.head"]
        chosen = {f"{recipe.strategy}.{k}" for k in recipe.strategy_params} | {
            f"{recipe.head}.{k}" for k in recipe.head_params
        }
        assert chosen | {"strategy", "backbone", f"{recipe.strategy}.head"} == set(trial.params)


def test_all_strategies_heads_and_backbones_are_drawn(choices, registry):
    recipes = [recipe for _, recipe in random_trials(choices, registry, 200)]
    assert {r.strategy for r in recipes} == set(choices.strategies)
    assert {r.head for r in recipes} == set(choices.heads)
    assert {r.backbone for r in recipes} == set(choices.backbones)


def test_only_dense_heads_are_fine_tuned(choices, registry):
    heads = {recipe.head for _, recipe in random_trials(choices, registry, 100) if recipe.strategy == "fine_tuning"}
    assert heads == {"linear", "mlp"}


@pytest.mark.parametrize(("accelerator", "blocks"), [(False, {1, 2, 3}), (True, set(range(1, 8)))])
def test_on_a_cpu_only_the_last_blocks_are_unfrozen(accelerator, blocks, choices, registry):
    vit = replace(choices, backbones=choices.backbones[1:], strategies=("fine_tuning",), accelerator=accelerator)
    depths = {recipe.strategy_params["unfrozen_blocks"] for _, recipe in random_trials(vit, registry, 100)}
    assert depths == blocks


# seeds


def test_a_seed_depends_on_the_study_and_the_number_of_the_trial():
    assert seed_of(0, 7) == seed_of(0, 7)
    assert len({seed_of(study, number) for study in range(30) for number in range(30)}) == 900


def test_a_seed_is_valid_for_numpy_and_sklearn():
    assert all(0 <= seed_of(study, number) < 2**31 for study in range(30) for number in range(30))


def test_a_recipe_has_the_seed_of_its_trial(choices, registry):
    for trial, recipe in random_trials(choices, registry, 3):
        assert recipe.seed == seed_of(5, trial.number)


def test_heads_that_cannot_train_on_that_many_samples_are_left_out(registry):
    choices = Choices(("efficientnet_lite0",), tuple(registry.strategies), ("rbf_svm", "linear"), 4000, 2)
    assert choices.heads_for("fast_extraction", registry) == ("rbf_svm", "linear")
    assert choices.heads_for("extract_augment", registry) == ("linear",)  # a view of each image doubles the samples

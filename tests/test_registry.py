"""Plugins: what a stranger's adds, and what a broken one costs."""

import subprocess
import sys
import warnings

import pytest

import autotl
from autotl.errors import AutotlError, UnknownName
from autotl.registry import BUILT_IN, Registry, load_registry

HEAD = """
import autotl
from autotl.heads.head import Head

class Stranger(Head):
    name, kind = {name!r}, "estimator"
    def suggest(self, space):
        return {{}}
    def build(self, params, n_features, n_classes, seed):
        from sklearn.naive_bayes import GaussianNB
        return GaussianNB()

@autotl.hookimpl
def autotl_register_heads(register):
    register(Stranger())
"""

BROKEN = {
    "no_such_import": ("import a_module_that_is_nowhere", "ModuleNotFoundError"),
    "syntax": ("def broken(:", "SyntaxError"),
    "leaves_at_import": ("import sys; sys.exit(3)", "SystemExit"),
    "raises_in_register": (HEAD.format(name="late") + "    raise RuntimeError('no luck')\n", "RuntimeError: no luck"),
    "registers_a_class": (HEAD.format(name="half") + "    register(Stranger)\n", "TypeError"),
    "wrong_argument": (
        "import autotl\n@autotl.hookimpl\ndef autotl_register_heads(registry):\n    pass\n",
        "PluginValidationError",
    ),
    "unknown_hook": (
        "import autotl\n@autotl.hookimpl\ndef autotl_register_hats(register):\n    pass\n",
        "unknown hook",
    ),
    "takes_a_name_twice": (HEAD.format(name="linear"), "'linear' is taken twice: by plugin 'heads.dense'"),
    "unmarked": (HEAD.format(name="unmarked").replace("@autotl.hookimpl\n", ""), "mark its functions with"),
    "empty": ("", "has no hooks"),
}


def everything(registry):
    kinds = ("backbones", "heads", "strategies", "engines", "datasets", "metrics")
    return {kind: sorted(getattr(registry, kind)) for kind in kinds}


@pytest.fixture(scope="module")
def plain():
    """What there is without a stranger."""
    return everything(load_registry())


# a stranger's plugin


def test_a_strangers_plugin_registers_a_head(install_plugin, plain):
    install_plugin("stranger", HEAD.format(name="naive_bayes"))
    registry = load_registry()
    assert everything(registry) == {**plain, "heads": sorted([*plain["heads"], "naive_bayes"])}
    assert registry.owners["head"]["naive_bayes"].distribution == "stranger"
    assert registry.versions()["stranger"] == "1.0"


def test_a_plugin_is_listed_with_what_it_adds(install_plugin):
    install_plugin("listed_stranger", HEAD.format(name="naive_bayes"))
    (plugin,) = (p for p in load_registry().plugins if p.name == "listed_stranger")
    assert (plugin.distribution, plugin.version, plugin.broken) == ("listed_stranger", "1.0", None)
    assert plugin.adds == {"head": ["naive_bayes"]}


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_plugin_can_be_left_out(how, install_plugin, plain, monkeypatch):
    install_plugin(f"left_out_by_{how}", "raise RuntimeError('must not be imported')")
    if how == "variable":
        monkeypatch.setenv("AUTOTL_PLUGINS", f"no:left_out_by_{how}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry = load_registry(without=[f"left_out_by_{how}"] if how == "argument" else [])
    assert everything(registry) == plain


# broken ones


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_costs_one_warning_and_leaves_nothing(name, install_plugin, plain):
    code, cause = BROKEN[name]
    install_plugin(name, code)
    with pytest.warns(UserWarning, match=rf"plugin '{name}' of {name} 1\.0 takes no part: .*") as caught:
        registry = load_registry()
    assert len(caught) == 1
    assert cause in str(caught[0].message)
    assert everything(registry) == plain
    (plugin,) = (p for p in registry.plugins if p.name == name)
    assert cause.split(":")[0] in plugin.broken
    assert plugin.adds == {}
    assert name not in registry.versions()


@pytest.mark.parametrize("name", BROKEN)
def test_strict_makes_it_an_error(name, install_plugin):
    install_plugin(f"strict_{name}", BROKEN[name][0])
    with pytest.raises(AutotlError, match=rf"plugin 'strict_{name}' .* takes no part: .* \(--strict-plugins\)"):
        load_registry(strict=True)


def test_a_broken_plugin_does_not_stop_the_next(install_plugin):
    install_plugin("a_broken_one", "raise RuntimeError")
    install_plugin("b_whole_one", HEAD.format(name="second"))
    with pytest.warns(UserWarning, match="a_broken_one"):
        registry = load_registry()
    assert "second" in registry.heads


def test_a_module_under_two_names_keeps_its_first(install_plugin):
    install_plugin("twice", HEAD.format(name="once"))
    registry = load_registry()
    module = next(plugin for name, plugin in registry.manager.list_name_plugin() if name == "twice")
    with pytest.raises(ValueError, match="already registered"):
        registry.add("again", module, "other", "2.0")
    assert "once" in registry.heads
    assert registry.manager.get_plugin("twice") is module


def test_a_name_given_twice_keeps_its_first(install_plugin):
    install_plugin("named_twice", HEAD.format(name="first"))
    registry = load_registry()
    with pytest.raises(ValueError, match="already registered"):
        registry.add("named_twice", Failing(), "other", "2.0")
    assert "first" in registry.heads
    assert registry.manager.get_plugin("named_twice") is not None


@pytest.mark.parametrize("garbage", [None, 5, "text", ["list"], object()], ids=repr)
def test_garbage_is_no_plugin(garbage):
    registry = Registry()
    with pytest.raises((TypeError, ValueError)):
        registry.add("garbage", garbage, "somewhere", "1.0")
    assert registry.manager.get_plugin("garbage") is None
    assert registry.plugins[0].broken


# families of backbones, and events


class Failing:
    @autotl.hookimpl
    def autotl_find_backbone(self, name):
        raise KeyError(name)

    @autotl.hookimpl
    def autotl_search_finished(self, study):
        raise RuntimeError("no luck")


class Returning(Failing):
    @autotl.hookimpl
    def autotl_find_backbone(self, name):
        return "a backbone, honestly"


class Refusing(Failing):
    @autotl.hookimpl
    def autotl_find_backbone(self, name):
        raise AutotlError("that folder is empty")


@pytest.mark.parametrize("family", [Failing, Returning])
def test_a_family_that_fails_does_not_stop_the_others(family):
    registry = load_registry()
    registry.add("failing", family(), "somewhere", "1.0")
    with pytest.warns(UserWarning, match="plugin 'failing' failed in autotl_find_backbone"):
        assert registry.backbone("test_resnet").name == "test_resnet"


def test_what_a_family_has_against_a_name_is_told():
    registry = load_registry()
    registry.add("refusing", Refusing(), "somewhere", "1.0")
    with pytest.raises(AutotlError, match="that folder is empty"):
        registry.backbone("test_resnet")


def test_a_backbone_is_found_once():
    registry = load_registry()
    assert registry.backbone("test_resnet") is registry.backbone("test_resnet")


def test_an_event_that_fails_costs_a_warning_and_the_others_hear_it():
    heard = []

    class Hearing:
        @autotl.hookimpl
        def autotl_search_finished(self, model):
            heard.append(model)

    registry = Registry()
    registry.add("one", Hearing(), "somewhere", "1.0")
    registry.add("failing", Failing(), "somewhere", "1.0")
    registry.add("two", Hearing(), "somewhere", "1.0")
    with pytest.warns(UserWarning, match="plugin 'failing' failed in autotl_search_finished: RuntimeError"):
        registry.notify("autotl_search_finished", study=None, model="it")
    assert heard == ["it", "it"]


# the built-ins


def test_built_ins_come_in_through_the_same_hooks():
    registry = load_registry()
    added = {}
    for plugin in registry.plugins[: len(BUILT_IN)]:
        assert registry.manager.get_plugin(plugin.name).__name__ == f"autotl.{plugin.name}"
        for kind, names in plugin.adds.items():
            added.setdefault(kind, set()).update(names)
    assert added["strategy"] == {"fast_extraction", "extract_augment", "fine_tuning"}
    assert {"linear", "mlp", "logistic_regression", "rbf_svm"} <= added["head"]
    assert added["engine"] == {"torch", "openvino"}
    assert {"folder", "manifest"} <= added["dataset"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"} == added["metric"]
    assert "resnet34.tv_in1k" in added["backbone"]


def test_a_built_in_can_be_left_out_like_any_other():
    registry = load_registry(without=["heads.sklearn"])
    assert sorted(registry.heads) == ["linear", "mlp"]


def test_loading_the_registry_imports_no_torch():
    code = (
        "import sys, autotl.registry as r; r.load_registry(); "
        "print([m for m in ('torch', 'timm', 'sklearn', 'openvino', 'torchvision') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "near", "name"),
    [("head", "linaer", "linear"), ("strategy", "fine_tunning", "fine_tuning"), ("metric", "acuracy", "accuracy")],
)
def test_an_unknown_name_suggests_the_nearest(kind, near, name):
    with pytest.raises(UnknownName, match=f"no {kind} named '{near}'. Did you mean '{name}'"):
        getattr(load_registry(), kind)(near)


def test_an_unknown_backbone_is_an_unknown_name():
    with pytest.raises(UnknownName, match="no backbone named 'resnet_of_mars'"):
        load_registry().backbone("resnet_of_mars")


def test_the_last_engine_that_is_usable_is_preferred():
    registry = load_registry()
    assert registry.engine(None, "cuda:0").name == "torch"
    assert registry.engine("torch", "cpu").name == "torch"
    with pytest.raises(UnknownName, match="engine"):
        registry.engine("steam", "cpu")

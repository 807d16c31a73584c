"""Plugins: what a third-party plugin registers, and the effects of a broken one."""

import os
import re
import subprocess
import sys
import warnings

import pytest

import autotl
from autotl.backbones.timm import TimmBackbone
from autotl.errors import AutotlError, BrokenPlugin, UnknownName
from autotl.heads.base import Head
from autotl.registry import BUILT_IN, Registry, load_registry

HEAD = """
import autotl
from autotl.heads.base import Head

class Third(Head):
    name, type = {name!r}, "estimator"
    def suggest(self, space):
        return {{}}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.naive_bayes import GaussianNB
        return GaussianNB()

@autotl.hookimpl
def autotl_register_heads(register):
    register(Third())
"""

BROKEN = {
    "no_such_import": ("import a_module_that_is_nowhere", "ModuleNotFoundError"),
    "syntax": ("def broken(:", "SyntaxError"),
    "leaves_at_import": ("import sys; sys.exit(3)", "SystemExit"),
    "raises_in_register": (HEAD.format(name="late") + "    raise RuntimeError('no luck')\n", "RuntimeError: no luck"),
    "registers_a_class": (HEAD.format(name="half") + "    register(Third)\n", "TypeError"),
    "wrong_argument": (
        "import autotl\n@autotl.hookimpl\ndef autotl_register_heads(registry):\n    pass\n",
        "PluginValidationError",
    ),
    "unknown_hook": (
        "import autotl\n@autotl.hookimpl\ndef autotl_register_hats(register):\n    pass\n",
        "Did you mean 'autotl_register_heads'?",
    ),
    "takes_a_name_twice": (
        HEAD.format(name="linear"),
        "'linear' is taken twice: by plugin 'heads.dense' of autotl and by plugin 'takes_a_name_twice' of takes_a_name",
    ),
    "registers_a_nameless_one": (HEAD.format(name=None), "with a name; the name of"),
    "unmarked": (HEAD.format(name="unmarked").replace("@autotl.hookimpl\n", ""), "mark its functions with"),
    "empty": ("", "has no hooks"),
}


def all_names(registry):
    components = ("backbones", "heads", "strategies", "engines", "datasets", "metrics", "callbacks")
    return {component: sorted(getattr(registry, component)) for component in components}


@pytest.fixture(scope="module")
def built_in():
    """What is registered without a third-party plugin."""
    return all_names(load_registry())


# a third-party plugin


def test_a_third_party_plugin_registers_a_head(install_plugin, built_in):
    install_plugin("third_party", HEAD.format(name="naive_bayes"))
    registry = load_registry()
    assert all_names(registry) == {**built_in, "heads": sorted([*built_in["heads"], "naive_bayes"])}
    assert registry.owners["head"]["naive_bayes"].distribution == "third_party"
    assert registry.versions()["third_party"] == "1.0"


def test_a_plugin_is_listed_with_its_components(install_plugin):
    install_plugin("listed_plugin", HEAD.format(name="naive_bayes"))
    (plugin,) = (p for p in load_registry().plugins if p.name == "listed_plugin")
    assert (plugin.distribution, plugin.version, plugin.broken) == ("listed_plugin", "1.0", None)
    assert plugin.components == {"head": ["naive_bayes"]}
    assert plugin.hooks == ["autotl_register_heads"]


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_a_plugin_can_be_left_out(way, install_plugin, built_in, monkeypatch):
    name = f"left_out_by_{way}"
    install_plugin(name, "raise RuntimeError('must not be imported')")
    if way == "variable":
        monkeypatch.setenv("AUTOTL_PLUGINS", f"{os.environ['AUTOTL_PLUGINS']},no:{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry = load_registry(without=[name] if way == "argument" else [])
    assert all_names(registry) == built_in


# broken ones


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_costs_one_warning_and_registers_nothing(name, install_plugin, built_in):
    code, cause = BROKEN[name]
    install_plugin(name, code)
    with pytest.warns(UserWarning, match=rf"plugin '{name}' of {name} 1\.0 is disabled: .*") as caught:
        registry = load_registry()
    assert len(caught) == 1
    assert cause in str(caught[0].message)
    assert all_names(registry) == built_in
    (plugin,) = (p for p in registry.plugins if p.name == name)
    assert cause.split(":")[0] in plugin.broken
    assert plugin.components == {}
    assert name not in registry.versions()


@pytest.mark.parametrize("name", BROKEN)
def test_with_strict_a_broken_plugin_is_an_error(name, install_plugin):
    install_plugin(f"strict_{name}", BROKEN[name][0])
    with pytest.raises(AutotlError, match=rf"plugin 'strict_{name}' .* is disabled: .* \(--strict-plugins\)"):
        load_registry(strict=True)


def test_a_broken_plugin_does_not_stop_the_next(install_plugin):
    install_plugin("a_broken_one", "raise RuntimeError")
    install_plugin("b_whole_one", HEAD.format(name="second"))
    with pytest.warns(UserWarning, match="a_broken_one"):
        registry = load_registry()
    assert "second" in registry.heads


def test_a_module_registered_under_two_names_keeps_the_first(install_plugin):
    install_plugin("twice", HEAD.format(name="once"))
    registry = load_registry()
    module = next(plugin for name, plugin in registry.manager.list_name_plugin() if name == "twice")
    with pytest.raises(ValueError, match="already registered"):
        registry.add("again", module, "other", "2.0")
    assert "once" in registry.heads
    assert registry.manager.get_plugin("twice") is module


def test_a_plugin_name_given_twice_keeps_the_first_plugin(install_plugin):
    install_plugin("named_twice", HEAD.format(name="first"))
    registry = load_registry()
    with pytest.raises(AutotlError, match="The plugin name 'named_twice' is taken twice: by named_twice and by other"):
        registry.add("named_twice", Failing(), "other", "2.0")
    assert "first" in registry.heads
    assert registry.manager.get_plugin("named_twice") is not None


@pytest.mark.parametrize("garbage", [None, 5, "text", ["list"], object()], ids=lambda x: type(x).__name__)
def test_an_object_without_hooks_is_not_a_plugin(garbage):
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
    with pytest.warns(UserWarning, match=r"plugin 'failing' of somewhere 1\.0 failed in autotl_find_backbone"):
        assert registry.backbone("test_resnet").name == "test_resnet"


def test_an_error_of_a_family_about_its_own_name_reaches_the_user():
    registry = load_registry()
    registry.add("refusing", Refusing(), "somewhere", "1.0")
    with pytest.raises(AutotlError, match="that folder is empty"):
        registry.backbone("test_resnet")


def test_a_backbone_of_a_family_is_the_same_object_every_time():
    registry = load_registry()
    assert registry.backbone("test_resnet") is registry.backbone("test_resnet")


def test_an_event_that_fails_costs_one_warning_and_the_others_are_called():
    models = []

    class Listening:
        @autotl.hookimpl
        def autotl_search_finished(self, model):
            models.append(model)

    registry = Registry()
    registry.add("one", Listening(), "somewhere", "1.0")
    registry.add("failing", Failing(), "somewhere", "1.0")
    registry.add("two", Listening(), "somewhere", "1.0")
    message = r"plugin 'failing' of somewhere 1\.0 failed in autotl_search_finished: RuntimeError: no luck"
    with pytest.warns(UserWarning, match=message):
        registry.notify("autotl_search_finished", study=None, model="model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the second failure of the same hook costs nothing
        registry.notify("autotl_search_finished", study=None, model="again")
    assert models == ["model", "model", "again", "again"]


def test_a_failure_can_be_sent_elsewhere_with_its_plugin_and_hook():
    failures = []
    registry = Registry()
    registry.on_plugin_failure = lambda plugin, hook, text: failures.append((plugin, hook, text))
    registry.add("failing", Failing(), "somewhere", "1.0")
    registry.notify("autotl_search_finished", study=None, model="model")
    assert failures == [
        (
            "failing",
            "autotl_search_finished",
            "plugin 'failing' of somewhere 1.0 failed in autotl_search_finished: RuntimeError: no luck",
        )
    ]


CALLBACK = """
import autotl

class Notifier(autotl.Callback):
    name = "notifier"

@autotl.hookimpl
def autotl_register_callbacks(register):
    register(Notifier())
"""


def test_a_plugin_registers_a_callback(install_plugin):
    install_plugin("notifying_plugin", CALLBACK)
    registry = load_registry()
    assert isinstance(registry.callbacks["notifier"], autotl.Callback)
    assert registry.owners["callback"]["notifier"].components == {"callback": ["notifier"]}


def test_with_strict_a_failing_event_is_an_error():
    registry = Registry(strict=True)
    registry.add("failing", Failing(), "somewhere", "1.0")
    with pytest.raises(BrokenPlugin, match=r"'failing' of somewhere 1\.0 failed in .* no luck \(--strict-plugins\)"):
        registry.notify("autotl_search_finished", study=None, model="model")


# names


def test_a_name_may_be_prefixed_with_its_plugin(install_plugin):
    install_plugin("third_party", HEAD.format(name="naive_bayes"))
    registry = load_registry()
    assert registry.head("third_party:naive_bayes") is registry.head("naive_bayes")
    assert registry.head("dense:linear") is registry.head("heads.dense:linear") is registry.head("linear")
    with pytest.raises(UnknownName, match=r"no head named 'linear'.*Known heads: naive_bayes\."):
        registry.head("third_party:linear")
    with pytest.raises(UnknownName, match="no head named 'nobody:linear'"):
        registry.head("nobody:linear")


class Prefixed:
    """A family whose names begin with the plugin's own."""

    @autotl.hookimpl
    def autotl_find_backbone(self, name):
        model = name.removeprefix("prefixed:")
        return TimmBackbone(name, model=model) if model != name else None


def test_a_family_may_have_the_plugins_name_in_its_own_names():
    registry = load_registry()
    registry.add("prefixed", Prefixed(), "somewhere", "1.0")
    backbone = registry.backbone("prefixed:test_resnet")
    assert (backbone.name, backbone.model) == ("prefixed:test_resnet", "test_resnet")
    assert registry.backbone("test_resnet").name == "test_resnet"


class Test_resnet:
    @autotl.hookimpl
    def autotl_register_backbones(self, register):
        register(TimmBackbone("test_resnet", model="test_vit"))


def test_a_name_in_two_plugins_is_told_apart_by_its_prefix():
    registry = load_registry()
    registry.add("family", Test_resnet(), "somewhere", "1.0")
    registered, from_timm = registry.backbone("test_resnet"), registry.backbone("timm:test_resnet")
    assert (registered.model, from_timm.model) == ("test_vit", "test_resnet")
    assert registry.backbone("somewhere:test_resnet") is registered
    assert registry.backbone(from_timm.name) is from_timm  # the name in a recipe leads to it again
    assert load_registry().backbone("timm:test_resnet").name == "test_resnet"  # no prefix where the name is unique
    assert registry.owner("backbone", registered.name).name == "family"
    assert registry.owner("backbone", from_timm.name).name == "backbones.timm"


def test_an_unknown_backbone_suggests_names_of_families():
    with pytest.raises(UnknownName, match=r"no backbone named 'resnet_34'. Did you mean .*'resnet34'.*\?"):
        load_registry().backbone("resnet_34")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "no:heads.sklaern",
            "No plugin is named 'heads.sklaern', so none is left out for it. Did you mean 'heads.sklearn'",
        ),
        ("heads.sklearn", "AUTOTL_PLUGINS contains 'heads.sklearn': write no:heads.sklearn"),
    ],
)
def test_leaving_out_an_unknown_plugin_costs_a_warning(value, message, monkeypatch):
    monkeypatch.setenv("AUTOTL_PLUGINS", value)
    with pytest.warns(UserWarning, match=message.split("'?")[0]):
        assert "rbf_svm" in load_registry().heads


# trace


def test_a_trace_shows_each_call_with_its_time(install_plugin, monkeypatch, capfd):
    install_plugin("traced_plugin", HEAD.format(name="naive_bayes"))
    monkeypatch.setenv("AUTOTL_TRACE_PLUGINS", "1")
    registry = load_registry()
    registry.add("one", Failing(), "somewhere", "1.0")
    with pytest.warns(UserWarning, match="no luck"):
        registry.notify("autotl_search_finished", study=None, model="model")
    lines = capfd.readouterr().err.splitlines()
    for call in (
        "traced_plugin  import traced_plugin",
        "traced_plugin  autotl_register_heads",
        "heads.dense  autotl_register_heads",
        "one  autotl_search_finished",
    ):
        assert [line for line in lines if re.fullmatch(rf"trace +\d+\.\d\d ms  {re.escape(call)}", line)], call


def test_without_the_variable_there_is_no_trace(capfd):
    load_registry()
    assert capfd.readouterr().err == ""


# the contracts, at the top


def test_the_contracts_are_at_the_top():
    for name in autotl.__all__:
        assert getattr(autotl, name) is not None
    assert autotl.Head is Head
    assert set(autotl.__all__) <= set(dir(autotl))


def test_the_contracts_import_no_torch():
    code = (
        "import sys, autotl; numpy = 'numpy' in sys.modules\n"
        "autotl.Backbone, autotl.Head, autotl.Strategy, autotl.Engine, autotl.DatasetSource, autotl.Metric\n"
        "print(numpy, [m for m in ('torch', 'timm', 'sklearn', 'openvino') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False []"


# the built-ins


def test_built_ins_come_in_through_the_same_hooks():
    registry = load_registry()
    added = {}
    for plugin in registry.plugins[: len(BUILT_IN)]:
        assert registry.manager.get_plugin(plugin.name).__name__ == f"autotl.{plugin.name}"
        for component, names in plugin.components.items():
            added.setdefault(component, set()).update(names)
    assert added["strategy"] == {"fast_extraction", "extract_augment", "fine_tuning"}
    assert {"linear", "mlp", "logistic_regression", "rbf_svm"} <= added["head"]
    assert added["engine"] == {"torch", "torch_compile", "openvino"}
    assert {"folder", "manifest"} <= added["dataset"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"} == added["metric"]
    assert "resnet50.tv_in1k" in added["backbone"]


def test_a_built_in_can_be_left_out_like_any_other():
    registry = load_registry(without=["heads.sklearn"])
    assert {"linear", "mlp"} <= set(registry.heads)
    assert not {"logistic_regression", "random_forest"} & set(registry.heads)


def test_loading_the_registry_imports_no_torch():
    code = (
        "import sys, autotl.registry as r; r.load_registry(); "
        "print([m for m in ('torch', 'timm', 'sklearn', 'openvino', 'torchvision') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("component", "near", "name"),
    [
        ("head", "linaer", "linear"),
        ("strategy", "fine_tunning", "fine_tuning"),
        ("metric", "acuracy", "accuracy"),
        ("metric", "f1", "macro_f1"),
        ("metric", "f1_weighted", "macro_f1"),
        ("metric", "F1-score", "macro_f1"),
        ("metric", "loss", "log_loss"),
        ("metric", "auc", "auroc"),
        ("head", "svm", "rbf_svm' or 'linear_svm"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(component, near, name):
    with pytest.raises(UnknownName, match=f"no {component} named '{near}'. Did you mean '{name}'"):
        getattr(load_registry(), component)(near)


def test_an_unknown_backbone_is_an_unknown_name():
    with pytest.raises(UnknownName, match="no backbone named 'resnet_of_mars'"):
        load_registry().backbone("resnet_of_mars")


def test_the_last_engine_that_is_usable_is_preferred():
    registry = load_registry()
    assert registry.engine(None, "cuda:0").name == "torch"
    assert registry.engine("torch", "cpu").name == "torch"
    with pytest.raises(UnknownName, match="engine"):
        registry.engine("steam", "cpu")

"""Plugins: what a stranger's adds, and what a broken one costs."""

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

class Stranger(Head):
    name, type = {name!r}, "estimator"
    def suggest(self, space):
        return {{}}
    def build(self, params, num_features, num_classes, seed):
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
        "Did you mean 'autotl_register_heads'?",
    ),
    "takes_a_name_twice": (
        HEAD.format(name="linear"),
        "'linear' is taken twice: by plugin 'heads.dense' of autotl and by plugin 'takes_a_name_twice' of takes_a_name",
    ),
    "registers_a_nameless_one": (HEAD.format(name=None), "with a name, and that of"),
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
    assert plugin.hooks == ["autotl_register_heads"]


@pytest.mark.parametrize("how", ["argument", "variable", "distribution"])
def test_a_plugin_can_be_left_out(how, install_plugin, plain, monkeypatch):
    install_plugin(f"left_out_by_{how}", "raise RuntimeError('must not be imported')")
    if how in ("variable", "distribution"):
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
    with pytest.raises(AutotlError, match="The plugin name 'named_twice' is taken twice: by named_twice and by other"):
        registry.add("named_twice", Failing(), "other", "2.0")
    assert "first" in registry.heads
    assert registry.manager.get_plugin("named_twice") is not None


@pytest.mark.parametrize("garbage", [None, 5, "text", ["list"], object()], ids=lambda x: type(x).__name__)
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
    with pytest.warns(UserWarning, match=r"plugin 'failing' of somewhere 1\.0 failed in autotl_find_backbone"):
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
    said = r"plugin 'failing' of somewhere 1\.0 failed in autotl_search_finished: RuntimeError: no luck"
    with pytest.warns(UserWarning, match=said):
        registry.notify("autotl_search_finished", study=None, model="it")
    assert heard == ["it", "it"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said
        registry.notify("autotl_search_finished", study=None, model="again")
    assert heard == ["it", "it", "again", "again"]


def test_strict_makes_a_failing_event_an_error():
    registry = Registry(strict=True)
    registry.add("failing", Failing(), "somewhere", "1.0")
    with pytest.raises(BrokenPlugin, match=r"'failing' of somewhere 1\.0 failed in .* no luck \(--strict-plugins\)"):
        registry.notify("autotl_search_finished", study=None, model="it")


# names


def test_a_name_may_say_whose_it_is(install_plugin):
    install_plugin("stranger", HEAD.format(name="naive_bayes"))
    registry = load_registry()
    assert registry.head("stranger:naive_bayes") is registry.head("naive_bayes")
    assert registry.head("dense:linear") is registry.head("heads.dense:linear") is registry.head("linear")
    with pytest.raises(UnknownName, match=r"no head named 'linear'.*Known heads: naive_bayes\."):
        registry.head("stranger:linear")
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
    found = registry.backbone("prefixed:test_resnet")
    assert (found.name, found.model) == ("prefixed:test_resnet", "test_resnet")
    assert registry.backbone("test_resnet").name == "test_resnet"


class Test_resnet:
    @autotl.hookimpl
    def autotl_register_backbones(self, register):
        register(TimmBackbone("test_resnet", model="test_vit"))


def test_a_name_that_two_could_mean_is_whose_it_says():
    registry = load_registry()
    registry.add("family", Test_resnet(), "somewhere", "1.0")
    theirs, timms = registry.backbone("test_resnet"), registry.backbone("timm:test_resnet")
    assert (theirs.model, timms.model) == ("test_vit", "test_resnet")
    assert registry.backbone("somewhere:test_resnet") is theirs
    assert registry.backbone(timms.name) is timms  # a recipe finds it again
    assert load_registry().backbone("timm:test_resnet").name == "test_resnet"  # alone it needs no more than its name
    assert (registry.owner("backbone", theirs.name).name, registry.owner("backbone", timms.name).name) == (
        "family",
        "backbones.timm",
    )


def test_an_unknown_backbone_suggests_what_families_know():
    with pytest.raises(UnknownName, match=r"no backbone named 'resnet_34'. Did you mean .*'resnet34'.*\?"):
        load_registry().backbone("resnet_34")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "no:heads.sklaern",
            "No plugin is named 'heads.sklaern', so none is left out for it. Did you mean 'heads.sklearn'",
        ),
        ("heads.sklearn", "AUTOTL_PLUGINS says 'heads.sklearn': write no:heads.sklearn"),
    ],
)
def test_leaving_out_nobody_is_told(value, said, monkeypatch):
    monkeypatch.setenv("AUTOTL_PLUGINS", value)
    with pytest.warns(UserWarning, match=said.split("'?")[0]):
        assert "rbf_svm" in load_registry().heads


# trace


def test_a_trace_shows_each_call_with_its_time(install_plugin, monkeypatch, capfd):
    install_plugin("traced_stranger", HEAD.format(name="naive_bayes"))
    monkeypatch.setenv("AUTOTL_TRACE_PLUGINS", "1")
    registry = load_registry()
    registry.add("one", Failing(), "somewhere", "1.0")
    with pytest.warns(UserWarning, match="no luck"):
        registry.notify("autotl_search_finished", study=None, model="it")
    lines = capfd.readouterr().err.splitlines()
    for call in (
        "traced_stranger  import traced_stranger",
        "traced_stranger  autotl_register_heads",
        "heads.dense  autotl_register_heads",
        "one  autotl_search_finished",
    ):
        assert [line for line in lines if re.fullmatch(rf"trace +\d+\.\d\d ms  {re.escape(call)}", line)], call


def test_without_being_asked_there_is_no_trace(capfd):
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
        for kind, names in plugin.adds.items():
            added.setdefault(kind, set()).update(names)
    assert added["strategy"] == {"fast_extraction", "extract_augment", "fine_tuning"}
    assert {"linear", "mlp", "logistic_regression", "rbf_svm"} <= added["head"]
    assert added["engine"] == {"torch", "torch_compile", "openvino"}
    assert {"folder", "manifest"} <= added["dataset"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc"} == added["metric"]
    assert "resnet34.tv_in1k" in added["backbone"]


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

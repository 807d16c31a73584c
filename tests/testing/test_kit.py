"""A part that breaks a promise is found out by the check of that promise, in words that say what came."""

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autotl.backbones.base import Block, Preprocessing
from autotl.backbones.weights import read_tensors
from autotl.data.dataset import DatasetSource, LabelledImage
from autotl.engines.torch import TorchEngine
from autotl.heads.base import Head
from autotl.metrics import Metric
from autotl.strategies.base import Fitted, Result
from autotl.strategies.fast_extraction import FastExtraction
from autotl.testing import CHECKS, ContractViolation

# found as a program finds it: pytest's own name for this folder's modules is nothing that another process can import
sys.path.insert(0, str(Path(__file__).parent))
import whole
from whole import Whole


def broken(kind, part, promise=None, **options):
    """The names of the promises that `part` doesn't keep, and what came; of one promise alone, where it is named."""
    found = {}
    for check in (check for check in CHECKS[kind] if promise in (None, check.name)):
        try:
            check(part, **options)
        except ContractViolation as error:
            found[check.name] = (
                next(line for line in str(error).splitlines() if "came:" in line).partition(":")[2].strip()
            )
        except pytest.skip.Exception:
            pass
    return found


# a backbone


class Unnamed(Whole):
    license = ""


class Incomplete(Whole):
    preprocessing = Preprocessing(32, 0.9, "bicubic", (124.0, 116.0, 104.0), (58.0, 57.0, 57.0))


class Different(Whole):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        if pretrained:
            nn.init.normal_(network[1][0].bias)
        return network


class Training(Whole):
    def build(self, *, pretrained=True):
        return super().build(pretrained=pretrained).train()


class Remembering(Whole):
    made = None

    def build(self, *, pretrained=True):
        self.made = self.made or super().build(pretrained=pretrained)
        return self.made


class Wider(Whole):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        if not pretrained:
            network[1][0] = nn.Conv2d(8, 16, 3, stride=2)
        return network


class Constant(Whole):
    digest = "0123456789abcdef"


class ReadsAnother(Whole):
    def weights_file(self):
        return self.file

    def build(self, *, pretrained=True):
        network = whole.network()
        if pretrained:
            network.load_state_dict(read_tensors(self.file))
        return network.eval()


class Maps(Whole):
    def build(self, *, pretrained=True):
        return super().build(pretrained=pretrained)[:2].eval()


class Unfinished(Whole):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        with torch.no_grad():
            network[1][0].bias[0] = float("nan")
        return network


class Misstated(Whole):
    num_features = 1280


class ByTheBatch(Whole):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[0][1] = nn.BatchNorm2d(8, track_running_stats=False)
        return network.eval()


class Random(Whole):
    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[2].append(Noise())
        return network.eval()


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Gap(Whole):
    def blocks(self, module):
        return [Block("first", ("0.0",)), Block("second", ("1",))]


class Twice(Whole):
    def blocks(self, module):
        return [Block("first", ("0",)), Block("second", ("0.1", "1"))]


class Backwards(Whole):
    def blocks(self, module):
        return super().blocks(module)[::-1]


class Miscounted(Whole):
    num_blocks = 5


class Asleep(Whole):
    """A block that nothing passes through never learns."""

    def build(self, *, pretrained=True):
        network = super().build(pretrained=pretrained)
        network[1][0].forward = Frozen(network[1][0])
        return network


class Frozen:
    def __init__(self, conv):
        self.conv = conv

    def __call__(self, x):
        with torch.no_grad():
            return nn.functional.conv2d(x, self.conv.weight, self.conv.bias, 2)


class Raising(Whole):
    def blocks(self, module):
        raise KeyError("layer9")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        file = tmp_path_factory.mktemp("weights") / "whole.safetensors"
        save_file(whole.network().state_dict(), file)
        return file


@pytest.mark.parametrize(
    ("backbone", "promise", "came"),
    [
        (Unnamed, "is_described", "license is ''"),
        (Incomplete, "preprocessing_is_complete", "mean is (124.0, 116.0, 104.0): outside of the range of x/255, 0 to 1"),
        (Different, "builds_twice_alike", "in the second network 1 of 9 tensors differ, '1.0.bias' first"),
        (Training, "builds_twice_alike", "a network in training mode"),
        (Remembering, "builds_twice_alike", "tensors differ"),
        (
            Wider,
            "builds_the_same_network_without_weights",
            "'1.0.weight' has shape (12, 8, 3, 3) with weights and (16, 8, 3, 3)",
        ),
        (Constant, "digest_follows_the_weights", "were changed and the digest is still 0123456789abcdef"),
        (Maps, "features_are_sound", "features of 4 images are [4, 12, 7, 7]: pool the feature maps"),
        (Unfinished, "features_are_sound", "4 of 4 images have NaN or infinite features"),
        (Misstated, "features_are_sound", "12 features, and num_features is 1280"),
        (ByTheBatch, "features_are_deterministic", "one by one they differ by up to"),
        (Random, "features_are_deterministic", "in a second run they differ by up to"),
        (Gap, "blocks_cover_every_parameter_once", "in no block: 0.1.weight, 0.1.bias"),
        (Twice, "blocks_cover_every_parameter_once", "'0.1.weight' is in block 'first' and in block 'second'"),
        (Miscounted, "blocks_cover_every_parameter_once", "num_blocks is 5, and there are 2"),
        (Backwards, "blocks_are_in_forward_order", "they begin in the order 0, 1"),
        (Asleep, "freezing_keeps_exactly_the_frozen_blocks", "no tensor of block"),
        (Raising, "blocks_are_in_forward_order", "KeyError: 'layer9'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_backbone_that_breaks_a_promise_is_found_out(backbone, promise, came, weights):
    assert came in broken("backbone", backbone(weights), promise).get(promise, "nothing")


def test_a_whole_backbone_is_found_whole(weights):
    assert broken("backbone", Whole(weights)) == {}


def test_one_that_cannot_travel_is_found_out(weights):
    class Local(Whole):
        pass

    assert "can't be pickled" in broken("backbone", Local(weights))["pickles_to_a_worker_lightly"]


def test_without_one_file_another_backbone_shows_that_the_digest_follows(weights, tmp_path):
    from safetensors.torch import save_file

    class Folder(Whole):
        def weights_file(self):
            return None

        @property
        def digest(self):
            return "a" * 32

        def build(self, *, pretrained=True):
            return whole.network().eval()

    save_file(whole.network().state_dict(), tmp_path / "other.safetensors")
    check = next(check for check in CHECKS["backbone"] if check.name == "digest_follows_the_weights")
    with pytest.raises(pytest.skip.Exception, match="weights_file"):
        check(Folder(weights))
    with pytest.raises(ContractViolation, match="has the same digest"):
        check(Folder(weights), other=Folder(tmp_path / "other.safetensors"))


def test_weights_that_are_not_here_are_not_asked_for(weights, tmp_path):
    class Absent(Whole):
        is_cached = False

        def build(self, *, pretrained=True):
            assert not pretrained
            return super().build(pretrained=False)

    found = broken("backbone", Absent(tmp_path / "nowhere.safetensors"))
    assert set(found) == {"pickles_to_a_worker_lightly"}  # a local class


# a head


class Sound(Head):
    name, type = "sound", "estimator"

    def suggest(self, space):
        return {"C": space.float("C", 1e-3, 10.0, log=True)}

    def defaults(self):
        return {"C": 1.0}

    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=params["C"]))


class Spaced(Sound):
    name = "a sound head"


class OutsideItsRange(Sound):
    def defaults(self):
        return {"C": 100.0}


class Forgetful(Sound):
    def defaults(self):
        return {}

    def build(self, params, num_features, num_classes, seed):
        return super().build({"C": 1.0}, num_features, num_classes, seed)


class Listing(Sound):
    def suggest(self, space):
        return {"C": [space.float("C", 1e-3, 10.0, log=True)]}


class Guessing(Sound):
    def build(self, params, num_features, num_classes, seed):
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="stratified", random_state=seed)


class Seedless(Sound):
    def build(self, params, num_features, num_classes, seed):
        from sklearn.ensemble import ExtraTreesClassifier

        return ExtraTreesClassifier(50)


class Trusting(Sound):
    trusted = ("os.system",)


class ClassHungry(Sound):
    def build(self, params, num_features, num_classes, seed):
        return Hungry(num_classes)


class Hungry:
    def __init__(self, num_classes):
        self.num_classes = num_classes

    def fit(self, x, y):
        assert len(np.unique(y)) == self.num_classes, "I want them all"
        return self

    predict_proba = None


class SmallLogits(Head):
    name, type = "small_logits", "dense"

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        return nn.Linear(num_features, 1)


@pytest.mark.parametrize(
    ("head", "promise", "came"),
    [
        (Spaced, "is_described", "name is 'a sound head'"),
        (OutsideItsRange, "defaults_are_what_it_suggests", "C = 100.0 lies outside of what it suggests"),
        (Forgetful, "defaults_are_what_it_suggests", "no default for C"),
        (Listing, "suggests_what_a_recipe_can_hold", "a list"),
        (Guessing, "learns_a_separable_problem", "with 2 classes"),
        (Seedless, "is_deterministic_with_a_seed", "trained again its logits differ by up to"),
        (Trusting, "trusts_no_more_than_it_needs", "trusted names os.system"),
        (ClassHungry, "a_missing_class_keeps_its_column", "AssertionError: I want them all"),
        (SmallLogits, "builds_what_its_kind_says", "for 8 rows and 3 classes came [8, 1]"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_head_that_breaks_a_promise_is_found_out(head, promise, came):
    assert came in broken("head", head(), promise).get(promise, "nothing")


def test_a_sound_head_is_found_sound():
    assert broken("head", Sound()) == {}


# a strategy


class Halved(FastExtraction):
    """Gives half of the truth."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        return Result(result.recipe, result.probabilities / 2, result.fitted)


class Forgets(FastExtraction):
    """Its model isn't what it trained."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        other = super().fit(recipe, type(task)(**{**vars(task), "train_labels": 1 - task.train_labels}), device, report)
        return Result(result.recipe, result.probabilities, Fitted(result.fitted.levels, other.fitted.head))


class Deaf(FastExtraction):
    """Hears nobody who says that it is enough."""

    def fit(self, recipe, task, device, report):
        report(0.5, 0.9)
        with suppress(Exception):
            report(0.4, 0.9)
        return super().fit(recipe, task, device, lambda fraction, score: None)


class Drawing(FastExtraction):
    """Draws from nobody's seed."""

    def fit(self, recipe, task, device, report):
        result = super().fit(recipe, task, device, report)
        noise = np.random.default_rng().uniform(0, 1e-3, result.probabilities.shape)
        noisy = result.probabilities + noise
        return Result(result.recipe, noisy / noisy.sum(1, keepdims=True), result.fitted)


class Unheeding(FastExtraction):
    """Trains as it always does."""

    def fit(self, recipe, task, device, report):
        return super().fit(recipe, type(task)(**{**vars(task), "refit_epochs": None}), device, report)


@pytest.mark.parametrize(
    ("strategy", "promise", "came"),
    [
        (Unheeding, "trains_once_more_for_the_model", "epochs, not 2"),
        (Halved, "results_are_probabilities", "rows of probabilities whose sum is off by 0.5"),
        (Forgets, "the_model_says_what_the_trial_said", "probabilities are off by up to"),
        (Deaf, "reports_its_progress", "it reported the fractions [0.5, 0.4]: they fall"),
        (Drawing, "the_same_recipe_gives_the_same_model", "trained again they differ by up to"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_strategy_that_breaks_a_promise_is_found_out(strategy, promise, came):
    assert came in broken("strategy", strategy(), promise).get(promise, "nothing")


# an engine


class Zero(TorchEngine):
    def compile(self, *args, **more):
        run = super().compile(*args, **more)
        return lambda images: run(images) * 0


class Reusing(TorchEngine):
    def compile(self, *args, **more):
        run, kept = super().compile(*args, **more), {}

        def again(images):
            rows = run(images)
            kept.setdefault(len(rows), rows)[:] = rows
            return kept[len(rows)]

        return again


class Unversioned(TorchEngine):
    def version(self):
        return ""


class Hoarding(TorchEngine):
    """Keeps by no key at all."""

    kept = None

    def compile(self, *args, cache=None, key="", **more):
        if cache is None:
            return super().compile(*args, **more)
        self.kept = self.kept or super().compile(*args, **more)
        return self.kept


@pytest.mark.parametrize(
    ("engine", "promise", "came"),
    [
        (Zero, "features_match_pytorch", "the mean cosine of features is 0.0"),
        (Unversioned, "version_is_stated", "version is ''"),
        (Reusing, "takes_batches_of_any_length", "a later call changed the features of an earlier one"),
        (Hoarding, "cache_is_keyed", "other weights under another key have the same features"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_engine_that_breaks_a_promise_is_found_out(engine, promise, came):
    assert came in broken("engine", engine(bf16=False), promise).get(promise, "nothing")


# a data set, a metric, a plugin


class Listed(DatasetSource):
    name = "listed"

    def __init__(self, rows, greedy=False):
        self.rows, self.greedy = rows, greedy

    def matches(self, location):
        return self.greedy or location == self.name

    def images(self, location):
        return list(self.rows)


@pytest.fixture
def rows(cells):
    return [LabelledImage(path, path.parent.name) for path in sorted(cells.glob("*/*.png"))]


def test_a_data_set_that_breaks_a_promise_is_found_out(rows, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    row = rows[0]
    assert broken("dataset", Listed(rows)) == {}
    assert (
        "'no/such/place.of.anybody') is True"
        in broken("dataset", Listed(rows, greedy=True))["matches_its_own_locations_alone"]
    )
    cases = [
        ([*rows, LabelledImage(tmp_path / "gone.png", "x")], "lists_labelled_images", "1 of 121 files aren't there"),
        ([*rows, row], "lists_labelled_images", "1 files are listed more than once"),
        (rows[:5], "lists_labelled_images", "all images have the label 'defective'"),
        (
            [*rows[1:], LabelledImage(row.path, row.label, "holdout")],
            "lists_labelled_images",
            "is in part 'holdout'",
        ),
        (
            [
                LabelledImage(rows[0].path, "a", "train", "patient 1"),
                LabelledImage(rows[1].path, "b", "test", "patient 1"),
            ],
            "groups_stay_in_one_part",
            "1 groups are in several parts: ['patient 1']",
        ),
        ([LabelledImage(tmp_path / "text.png", "x"), *rows], "images_can_be_loaded", "text.png"),
    ]
    for listed, promise, came in cases:
        assert came in broken("dataset", Listed(listed), promise).get(promise, "nothing")


def test_a_list_in_another_order_each_time_is_found_out(rows):
    class Shuffled(Listed):
        def images(self, location):
            self.rows = self.rows[1:] + self.rows[:1]
            return list(self.rows)

    assert "at first" in broken("dataset", Shuffled(rows))["lists_the_same_each_time"]


@pytest.mark.parametrize(
    ("metric", "promise", "came"),
    [
        (Metric("a b", lambda y, p: 1.0), "is_described", "name is 'a b'"),
        (Metric("rows", lambda y, p: p.max(1)), "is_a_finite_number", "array"),
        (
            Metric("upside_down", lambda y, p: -(p.argmax(1) == y).mean()),
            "better_answers_have_better_scores",
            "right -1",
        ),
        (Metric("first", lambda y, p: float(p[0, 0])), "the_order_of_images_says_nothing", "one way round"),
        (
            Metric("log_of_counts", lambda y, p: float(np.log(np.bincount(y, minlength=p.shape[1])).min())),
            "a_class_may_be_missing",
            "without class 2 came -inf",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_metric_that_breaks_a_promise_is_found_out(metric, promise, came):
    assert came in broken("metric", metric, promise).get(promise, "nothing")


HEAVY = "import sklearn.base, autotl\n@autotl.hookimpl\ndef autotl_register_heads(register):\n    pass\n"


def test_a_plugin_that_breaks_a_promise_is_found_out(install_plugin):
    assert "nobody does; installed are: " in broken("plugin", "not_there")["is_installed_once"]
    install_plugin("heavy_plugin", HEAVY)
    assert broken("plugin", "heavy_plugin") == {
        "registers_lightly": "it imported sklearn, scipy: import inside of the methods that need it"
    }
    install_plugin("dead_plugin", "1 / 0")
    assert "ZeroDivisionError" in broken("plugin", "dead_plugin")["takes_part"]


# the kit itself


def test_a_failure_says_what_was_promised_what_came_and_where_it_says_so(weights):
    check = next(check for check in CHECKS["backbone"] if check.name == "features_are_sound")
    with pytest.raises(ContractViolation) as failed:
        check(Misstated(weights))
    first, promised, came, see = str(failed.value).splitlines()
    assert first == "backbone 'whole' doesn't keep features_are_sound"
    assert promised.startswith("  promised: Real images [N, 3, size, size] become finite features")
    assert came == "  came:     12 features, and num_features is 1280"
    file, line = see.removeprefix("  see:      Backbone.build, ").split(":")
    source = (Path(__file__).parents[2] / file).read_text().splitlines()
    assert "build" in "".join(source[int(line) - 1 : int(line) + 1])


@pytest.mark.parametrize(
    "check", [c for checks in CHECKS.values() for c in checks], ids=lambda c: f"{c.component}-{c.name}"
)
def test_every_check_says_what_is_promised_and_where(check):
    assert check.promise.endswith(".")
    file = check.where.split(", ")[-1].partition(":")[0]
    assert (Path(__file__).parents[2] / file).is_file()
    assert "testing" not in file


def test_a_class_in_the_place_of_an_instance_is_told():
    with pytest.raises(TypeError, match=r"give check\(\) an instance: check\(Sound\(\)\)"):
        next(iter(CHECKS["head"]))(Sound)


def test_another_kind_of_part_is_told():
    with pytest.raises(TypeError, match="a backbone check takes a Backbone, got"):
        next(iter(CHECKS["backbone"]))(Sound())


def test_an_option_that_is_not_there_is_told(weights):
    with pytest.raises(TypeError, match="a backbone check has no option 'device': it takes other"):
        next(iter(CHECKS["backbone"]))(Whole(weights), device="cpu")

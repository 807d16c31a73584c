"""Study files, flags and overrides as a validated StudyConfig, or one clear error."""

import re
from pathlib import Path

import pytest

from autotl.config import (
    Limits,
    StudyConfig,
    check_registered,
    find_model,
    find_study,
    load_study_file,
    parse_bytes,
    parse_seconds,
    study_config,
)
from autotl.errors import AutotlError, UnknownName
from autotl.folders import claim_study
from autotl.registry import load_registry


def study_file(folder: Path, text: str) -> Path:
    path = folder / "cells.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), (300, 300), ("300", 300), ("1.5h", 5400), ("2m30", 150), (0.5, 0.5)],
)
def test_spellings_of_durations(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "10 minutes", "1.2.3s", "0s", -3, True, float("inf"), float("nan")])
def test_text_that_is_not_a_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("512 MiB", 512 * 2**20), ("1.5tb", 15 * 10**11), ("100", 100), (7, 7)]
)
def test_spellings_of_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["20 apples", "", "-1GB", "GB"])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


def test_time_is_ten_minutes_if_trials_are_not_given_either() -> None:
    assert StudyConfig(data="x").time == 600
    assert StudyConfig(data="x", trials=3).time is None
    assert StudyConfig(data="x", trials=3, time="5m").time == 300


def test_none_means_the_default() -> None:
    assert StudyConfig(data="x", seed=None, time=None) == StudyConfig(data="x")


def test_a_config_survives_being_written_and_read() -> None:
    config = StudyConfig(data="x", trials=3, backbones=["a", "b"], test="none")
    assert StudyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("photos", "photos"),
        ("photos/train", "photos"),
        ("photos/labels.csv", "photos"),
        ("elpv", "elpv"),
        ("hub:some one/cells", "hub-some-one-cells"),
    ],
)
def test_a_study_is_named_after_its_data(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "photos" / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert StudyConfig(data=place).name == name


def test_the_current_folder_gives_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StudyConfig(data=".").name == tmp_path.name


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".", "-x"])
def test_a_name_that_is_not_a_folder_name_is_refused(name: str) -> None:
    with pytest.raises(AutotlError, match="--name"):
        study_config("x", name=name)


def test_the_cache_can_be_set_by_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTL_CACHE", "/somewhere/else")
    assert StudyConfig(data="x").cache == Path("/somewhere/else")


def test_every_field_is_described() -> None:
    undescribed = [name for name, field in StudyConfig.model_fields.items() if not field.description]
    assert undescribed == []


def test_a_study_file_is_named_by_its_stem_and_overrides_win(tmp_path: Path) -> None:
    path = study_file(tmp_path, 'data = "elpv"\ntime = "5m"\nbackbones = "a"\n')
    config = load_study_file(path, time="90s", trials=None)
    assert (config.name, config.time, config.trials, config.backbones) == ("cells", 90, None, ["a"])


def test_data_of_a_study_file_may_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files" / "photos").mkdir(parents=True)
    (tmp_path / "files" / "held").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_study_file(study_file(tmp_path / "files", 'data = "photos"\ntest = "held"\n'))
    assert (Path(config.data), Path(str(config.test))) == (tmp_path / "files/photos", tmp_path / "files/held")


def test_data_in_the_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "photos", tmp_path / "files" / "photos"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_study_file(study_file(tmp_path / "files", 'data = "photos"\n')).data == "photos"


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    path = study_file(tmp_path, '# a study\ndata = "x"\ntiem = "5m"\n')
    with pytest.raises(AutotlError) as error:
        load_study_file(path)
    assert f"{path}, line 3: unknown key 'tiem'. Did you mean 'time'? Known keys: data, name" in str(error.value)


def test_a_table_is_an_unknown_key_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="line 2: unknown key 'search'"):
        load_study_file(study_file(tmp_path, 'data = "x"\n[search]\nseed = 1\n'))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trials = 0", r"trials = 0 is invalid: .*greater than or equal to 1.* whole number from 1"),
        ('time = "soon"', r'time = "soon" is invalid: not a duration\..*90s, 10m, 1h30m'),
        ("seed = true", r"seed = true is invalid"),
        ("backbones = []", r"backbones = \[\] is invalid"),
        ('cache_size = "many"', r'cache_size = "many" is invalid: not a size\..*20GB'),
        ("ensemble = 0", r"ensemble = 0 is invalid"),
        ("strict_images = 3", r"strict_images = 3 is invalid"),
    ],
)
def test_an_invalid_value_is_refused_with_its_line_and_what_is_allowed(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=f"cells.toml, line 2: {message}"):
        load_study_file(study_file(tmp_path, f'data = "x"\n{line}\n'))


def test_each_error_has_a_line_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(AutotlError) as error:
        load_study_file(study_file(tmp_path, "trials = 0\nseed = -1\n"))
    assert [line.split(":")[0].rpartition("/")[2] for line in str(error.value).splitlines()] == [
        "cells.toml",  # data is missing
        "cells.toml, line 1",
        "cells.toml, line 2",
    ]


def test_an_invalid_override_is_named_as_a_flag(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"^--backbone: backbones = 3 is invalid"):
        load_study_file(study_file(tmp_path, 'data = "x"\n'), backbones=3)


def test_broken_toml_is_reported_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"cells\.toml can't be read as TOML: .*line 1"):
        load_study_file(study_file(tmp_path, "data = \n"))


def test_a_missing_study_file_suggests_the_nearest(tmp_path: Path) -> None:
    study_file(tmp_path, "")
    with pytest.raises(AutotlError, match=r"Did you mean 'cells\.toml'"):
        load_study_file(tmp_path / "cell.toml")


def test_overrides_replace_values_of_a_config() -> None:
    config = study_config(StudyConfig(data="x", seed=3), trials=5)
    assert (config.seed, config.trials, config.time) == (3, 5, None)


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("metric", "acuracy", "accuracy"),
        ("heads", ["liner"], "linear"),
        ("strategies", ["fine_tunning"], "fine_tuning"),
        ("engine", "torh", "torch"),
    ],
)
def test_unregistered_names_are_refused(field: str, value: object, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean '{nearest}'"):
        check_registered(StudyConfig(data="x", **{field: value}), load_registry())


def test_strategies_that_can_train_none_of_the_heads_are_refused() -> None:
    config = StudyConfig(data="x", strategies=["fine_tuning"], heads=["knn"])
    with pytest.raises(AutotlError, match="heads knn can be trained by fine_tuning"):
        check_registered(config, load_registry())


def test_registered_names_pass() -> None:
    check_registered(StudyConfig(data="x", strategies=["fine_tuning"], heads=["knn", "linear"]), load_registry())


def test_a_study_is_found_by_name_and_by_folder(tmp_path: Path) -> None:
    claim_study(tmp_path / "cells")
    (tmp_path / "cells" / "journal.log").touch()
    assert find_study("cells", tmp_path) == find_study(tmp_path / "cells") == tmp_path / "cells"


def test_a_missing_study_suggests_the_nearest(tmp_path: Path) -> None:
    claim_study(tmp_path / "cells")
    (tmp_path / "cells" / "journal.log").touch()
    with pytest.raises(AutotlError, match="Did you mean 'cells'"):
        find_study("cels", tmp_path)


def test_a_folder_of_the_user_with_a_file_of_a_studys_name_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "journal.log").write_text("Monday: rain")
    with pytest.raises(AutotlError, match=r"There is no study 'diary' under [^.]*/\.$"):
        find_study("diary", tmp_path)


def test_a_model_is_found_by_its_folder_its_study_and_its_name(tmp_path: Path) -> None:
    model = tmp_path / "cells" / "model"
    model.mkdir(parents=True)
    (model / "model.json").touch()
    assert find_model(model) == find_model(model.parent) == find_model("cells", tmp_path) == model


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="no model at 'cells'"):
        find_model("cells", tmp_path)


def test_a_study_beside_the_file_is_not_taken_for_data(tmp_path):
    claim_study(tmp_path / "elpv")
    (tmp_path / "mine.toml").write_text('data = "elpv"')
    assert load_study_file(tmp_path / "mine.toml").data == "elpv"


@pytest.mark.parametrize(
    ("typed", "limits"),
    [
        ({"max_latency": "20ms"}, Limits(milliseconds=20.0)),
        ({"max_latency": "0.02s"}, Limits(milliseconds=20.0)),
        ({"max_latency": 1.5}, Limits(milliseconds=1.5)),
        ({"max_size": "50MB"}, Limits(megabytes=50.0)),
        ({"max_parameters": "1.5M"}, Limits(parameters=1_500_000)),
        ({}, Limits()),
    ],
)
def test_limits_are_typed_with_their_units(typed, limits):
    config = study_config("photos", **typed)
    assert config.limits == limits
    assert bool(config.limits) == bool(typed)


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ({"max_latency": "fast"}, '--max-latency: max_latency = "fast" is invalid: not a latency'),
        ({"max_latency": 0}, "--max-latency: max_latency = 0 is invalid: not a latency above 0 ms"),
        ({"max_size": "0MB"}, '--max-size: max_size = "0MB" is invalid'),
        ({"max_parameters": "many"}, '--max-parameters: max_parameters = "many" is invalid: not a number'),
    ],
)
def test_a_limit_that_is_none_is_an_error_with_what_is_allowed(typed, error):
    with pytest.raises(AutotlError, match=re.escape(error)):
        study_config("photos", **typed)

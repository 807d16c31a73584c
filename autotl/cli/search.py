"""`autotl search`, `replay`, `dashboard`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["add_commands"]

STUDY, PARTS, LIMITS, SHOWN = "Study", "What is searched", "Limits", "What the terminal shows"


def add_commands(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(replay)
    app.command()(dashboard)


def _option(panel: str, metavar: str, description: str, *flags: str) -> Any:
    return typer.Option(*flags, metavar=metavar, help=description, rich_help_panel=panel)


def search(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|STUDY.toml",
            help="A folder of class folders, a CSV manifest, a data set by name, or a study file.",
        ),
    ],
    images: Annotated[str | None, _option(STUDY, "DATA", "Other images than the study file's.", "--data")] = None,
    name: Annotated[str | None, _option(STUDY, "NAME", "What the study is called; the same name resumes it.")] = None,
    output: Annotated[
        Path | None, _option(STUDY, "FOLDER", "The folder that holds the studies (without it: studies).")
    ] = None,
    extend: Annotated[
        bool,
        _option(
            STUDY, "", "Search with other choices, in a new study that takes over the trials that fit.", "--extend"
        ),
    ] = False,
    test: Annotated[str | None, _option(STUDY, "DATA|none", "Test images of their own, or none.")] = None,
    metric: Annotated[str | None, _option(STUDY, "NAME", "The score to optimise (without it: accuracy).")] = None,
    seed: Annotated[int | None, _option(STUDY, "N", "Decides the split, and each trial's own seed.")] = None,
    ensemble: Annotated[
        int | None, _option(STUDY, "N", "How many trials the model may combine (without it: 8); 1 keeps the best.")
    ] = None,
    strict_images: Annotated[
        bool, _option(STUDY, "", "Stop at a file that can't be decoded.", "--strict-images")
    ] = False,
    backbone: Annotated[list[str] | None, _option(PARTS, "NAME", "A pretrained network; repeat it for more.")] = None,
    strategy: Annotated[list[str] | None, _option(PARTS, "NAME", "A way to reuse it; repeat it for more.")] = None,
    head: Annotated[list[str] | None, _option(PARTS, "NAME", "A classifier; repeat it for more.")] = None,
    engine: Annotated[str | None, _option(PARTS, "NAME", "What runs frozen backbones.")] = None,
    offline: Annotated[bool, _option(PARTS, "", "Fetch no weights from the network.", "--offline")] = False,
    time: Annotated[
        str | None, _option(LIMITS, "10m", "How long: 90s, 10m, 1h30m (without it and --trials: 10m).")
    ] = None,
    trials: Annotated[int | None, _option(LIMITS, "N", "How many trials.")] = None,
    trial_timeout: Annotated[str | None, _option(LIMITS, "2m", "How long one trial may train, or be silent.")] = None,
    devices: Annotated[str | None, _option(LIMITS, "auto", "A worker for each: cpu, cpu*2, or cuda:0,cuda:1.")] = None,
    cache: Annotated[Path | None, _option(LIMITS, "FOLDER", "Where features are recorded.")] = None,
    cache_size: Annotated[str | None, _option(LIMITS, "20GB", "How large the cache may grow.")] = None,
    join: Annotated[
        bool, _option(LIMITS, "", "Add workers to the search that runs in this study already.", "--join")
    ] = False,
    quiet: Annotated[bool, _option(SHOWN, "", "Nothing but the model's folder, at the end.", "--quiet", "-q")] = False,
    as_json: Annotated[bool, _option(SHOWN, "", "One JSON object a line, for scripts.", "--json")] = False,
    picture: Annotated[Path | None, _option(SHOWN, "FILE.svg", "Save what the terminal shows at the end.")] = None,
) -> None:
    """Search for the best classifier of labelled images. The same name again resumes.

    [dim]Example: autotl search photos/ --time 10m[/]
    """
    if quiet and as_json:
        raise typer.BadParameter("choose --quiet or --json: one of them.")
    if join and extend:
        raise typer.BadParameter("choose --join or --extend: one of them.")
    from autotl.config import study_config

    config = study_config(
        data,
        data=images,
        name=name,
        output=output,
        test=test,
        metric=metric,
        seed=seed,
        ensemble=ensemble,
        strict_images=strict_images or None,
        backbones=backbone,
        strategies=strategy,
        heads=head,
        engine=engine,
        offline=offline or None,
        time=time,
        trials=trials,
        trial_timeout=trial_timeout,
        devices=devices,
        cache=cache,
        cache_size=cache_size,
        strict_plugins=ctx.obj["strict"] or None,
    )
    from autotl import api
    from autotl.ui.reporters import choose_progress

    progress = choose_progress(quiet=quiet, as_json=as_json, picture=picture)
    if join:
        api.join(config, progress=progress)
    else:
        api.search(config, progress=progress, extend=extend)


Study = Annotated[str, typer.Argument(metavar="NAME", help="A study's name, or its folder.")]
Output = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that holds the studies.")]


def replay(
    name: Study,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The trial's number, as the leaderboard has it.")],
    output: Output = Path("studies"),
) -> None:
    """Train a trial's recipe again and compare the validation scores."""
    from autotl.config import find_study

    folder = find_study(name, output)  # a wrong name is told before torch is loaded
    from autotl import api
    from autotl.recipe import Recipe

    outcome = api.replay(folder, number)
    recorded, replayed = outcome["recorded"], outcome["replayed"]
    console = Console()
    console.print(Text(Recipe.from_dict(outcome["recipe"]).describe(), "dim"))
    same = recorded is not None and abs(recorded - replayed) < 1e-6
    verdict = Text("the same", "green") if same else Text("not the same", "yellow")
    console.print(f"{outcome['metric']}: recorded {recorded}, replayed {replayed}:", verdict)


def dashboard(
    name: Study,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="The port on 127.0.0.1; 0 takes a free one.")
    ] = 8080,
    output: Output = Path("studies"),
) -> None:
    """Look at a study in Optuna Dashboard, in the browser."""
    from autotl.config import find_study
    from autotl.study.dashboard import dashboard_server

    folder = find_study(name, output)
    with dashboard_server(folder, port) as server:
        Console().print(
            f"http://127.0.0.1:{server.server_port}/dashboard shows {folder}. Ctrl-C ends it.", soft_wrap=True
        )
        server.serve_forever()

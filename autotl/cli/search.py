"""`autotl search`, `replay`, `dashboard`, `report`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from autotl.escaping import escape

__all__ = ["add_commands"]

STUDY, COMPONENTS, LIMITS, OUTPUT = "Study", "What is searched", "Limits", "What the terminal shows"
"""Panels of `autotl search --help`."""


def add_commands(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(replay)
    app.command()(dashboard)
    app.command()(report)


def _option(panel: str, metavar: str, description: str, *flags: str) -> Any:
    return typer.Option(*flags, metavar=metavar, help=description, rich_help_panel=panel)


def search(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|STUDY.toml",
            help="A folder of class folders, a CSV manifest, the name of a data set, or a study file.",
        ),
    ],
    images: Annotated[
        str | None, _option(STUDY, "DATA", "Images to use instead of the study file's.", "--data")
    ] = None,
    name: Annotated[str | None, _option(STUDY, "NAME", "Name of the study; the same name resumes it.")] = None,
    output: Annotated[
        Path | None, _option(STUDY, "FOLDER", "The folder that holds the studies (default: studies).")
    ] = None,
    extend: Annotated[
        bool,
        _option(STUDY, "", "Search with other choices, in a new study that takes over matching trials.", "--extend"),
    ] = False,
    test: Annotated[str | None, _option(STUDY, "DATA|none", "Separate test images, or none.")] = None,
    metric: Annotated[str | None, _option(STUDY, "NAME", "The score to optimise (default: accuracy).")] = None,
    seed: Annotated[int | None, _option(STUDY, "N", "Seed of the split and of each trial.")] = None,
    ensemble: Annotated[
        int | None,
        _option(STUDY, "N", "Maximum number of trials that the model combines (default: 8); 1 keeps the best."),
    ] = None,
    joined: Annotated[
        int | None,
        _option(STUDY, "N", "Maximum number of backbones that one head joins (default: 3); 1 joins none."),
    ] = None,
    strict_images: Annotated[
        bool, _option(STUDY, "", "Stop at a file that can't be decoded.", "--strict-images")
    ] = False,
    backbone: Annotated[
        list[str] | None, _option(COMPONENTS, "NAME", "A pretrained network; repeat the flag for more.")
    ] = None,
    strategy: Annotated[
        list[str] | None, _option(COMPONENTS, "NAME", "A way to reuse it; repeat the flag for more.")
    ] = None,
    head: Annotated[list[str] | None, _option(COMPONENTS, "NAME", "A classifier; repeat the flag for more.")] = None,
    augmentation: Annotated[
        list[str] | None, _option(COMPONENTS, "NAME", "A policy of augmentation; repeat the flag for more.")
    ] = None,
    loss: Annotated[list[str] | None, _option(COMPONENTS, "NAME", "A loss; repeat the flag for more.")] = None,
    levels: Annotated[
        list[str] | None, _option(COMPONENTS, "NAME", "Feature levels; repeat the flag for more.")
    ] = None,
    engine: Annotated[str | None, _option(COMPONENTS, "NAME", "Engine for frozen backbones.")] = None,
    offline: Annotated[
        bool, _option(COMPONENTS, "", "Download no weights: the same as --download never.", "--offline")
    ] = False,
    download: Annotated[
        str | None,
        _option(
            COMPONENTS,
            "never|ask|always",
            "Whether weights may be downloaded (default: ask at a terminal, elsewhere only named backbones).",
        ),
    ] = None,
    time: Annotated[
        str | None, _option(LIMITS, "10m", "Time budget: 90s, 10m, 1h30m (default without --trials: 10m).")
    ] = None,
    trials: Annotated[int | None, _option(LIMITS, "N", "Maximum number of trials.")] = None,
    trial_timeout: Annotated[
        str | None, _option(LIMITS, "2m", "Maximum time of one trial, and without a message from its worker.")
    ] = None,
    max_latency: Annotated[
        str | None, _option(LIMITS, "20ms", "Most time for one image in the model's networks, without reading it.")
    ] = None,
    max_size: Annotated[str | None, _option(LIMITS, "50MB", "Maximum size of the model's weights as saved.")] = None,
    max_parameters: Annotated[
        str | None, _option(LIMITS, "10M", "Maximum number of parameters of the model's networks together.")
    ] = None,
    align: Annotated[
        bool | None,
        _option(
            COMPONENTS, "", "Measure early which backbones suit the images; try those first.", "--align/--no-align"
        ),
    ] = None,
    devices: Annotated[
        str | None, _option(LIMITS, "auto", "Devices, with one worker for each: cpu*2, or cuda:0,cpu*4.")
    ] = None,
    force: Annotated[
        bool, _option(LIMITS, "", "Start all workers of --devices, however few cores and memory.", "--force")
    ] = False,
    pool: Annotated[
        str | None, _option(LIMITS, "URL", "Where hosts share features: file:///FOLDER or s3://BUCKET/FOLDER.")
    ] = None,
    storage: Annotated[
        str | None, _option(LIMITS, "URL", "Database for the study: postgresql+psycopg://USER@HOST/DATABASE.")
    ] = None,
    cache: Annotated[Path | None, _option(LIMITS, "FOLDER", "Folder for recorded features.")] = None,
    cache_size: Annotated[str | None, _option(LIMITS, "20GB", "Maximum size of the cache.")] = None,
    join: Annotated[bool, _option(LIMITS, "", "Add workers to the running search of this study.", "--join")] = False,
    quiet: Annotated[bool, _option(OUTPUT, "", "Print only the model's folder, at the end.", "--quiet", "-q")] = False,
    as_json: Annotated[bool, _option(OUTPUT, "", "Print one JSON object a line, for scripts.", "--json")] = False,
    picture: Annotated[
        Path | None, _option(OUTPUT, "FILE.svg", "Save what the terminal shows as a picture, at the end.")
    ] = None,
) -> None:
    """Search for the best classifier of labelled images. The same name again resumes.

    [dim]Example: autotl search photos/ --time 10m[/]
    """
    if quiet and as_json:
        raise typer.BadParameter("--quiet and --json exclude each other.")
    if join and extend:
        raise typer.BadParameter("--join and --extend exclude each other.")
    from autotl.config import study_config
    from autotl.escaping import require_utf8

    require_utf8(data=data, name=name, output=output, test=test, cache=cache)
    config = study_config(
        data,
        data=images,
        name=name,
        output=output,
        test=test,
        metric=metric,
        seed=seed,
        ensemble=ensemble,
        joined=joined,
        strict_images=strict_images or None,
        backbones=backbone,
        strategies=strategy,
        heads=head,
        augmentations=augmentation,
        losses=loss,
        levels=levels,
        engine=engine,
        offline=offline or None,
        download=download,
        time=time,
        trials=trials,
        trial_timeout=trial_timeout,
        max_latency=max_latency,
        max_size=max_size,
        max_parameters=max_parameters,
        devices=devices,
        storage=storage,
        pool=pool,
        force=force or None,
        cache=cache,
        cache_size=cache_size,
        align=align,
        strict_plugins=ctx.obj["strict"] or None,
    )
    from autotl import api
    from autotl.ui.reporters import choose_progress

    progress = choose_progress(quiet=quiet, as_json=as_json, picture=picture)
    if join:
        api.join(config, progress=progress)
    else:
        api.search(config, progress=progress, extend=extend)


def _show_warning(line: str) -> None:
    Console(stderr=True).print(Text(escape(line), "yellow"), soft_wrap=True)


Study = Annotated[str, typer.Argument(metavar="NAME", help="A study's name, or its folder.")]
Images = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="The study's images, where they have moved.")
]
TestImages = Annotated[
    str | None, typer.Option(metavar="DATA", help="Its separate test images, where they have moved.")
]
Output = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that holds the studies.")]


def replay(
    name: Study,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The trial's number in the leaderboard.")],
    images: Images = None,
    test: TestImages = None,
    output: Output = Path("studies"),
) -> None:
    """Train a trial's recipe again and compare the validation scores."""
    from autotl.config import find_study

    folder = find_study(name, output)  # a wrong name is an error before torch is imported
    from autotl import api
    from autotl.recipe import Recipe

    outcome = api.replay(folder, number, data=images, test=test)
    recorded, replayed = outcome["recorded"], outcome["replayed"]
    console = Console()
    console.print(Text(Recipe.from_dict(outcome["recipe"]).describe(), "dim"))
    same = recorded is not None and abs(recorded - replayed) < 1e-6
    verdict = Text("the same", "green") if same else Text("not the same", "yellow")
    console.print(Text(f"{outcome['metric']}: recorded {recorded}, replayed {replayed}:"), verdict)


def dashboard(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A study's name, or its folder; by default all studies.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 8080,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only", metavar="", help="Hide the buttons that change the study, and refuse every change."
        ),
    ] = False,
    output: Output = Path("studies"),
) -> None:
    """Show a study, or all studies side by side, in Optuna Dashboard, in the browser. Only the printed address, with
    its token, opens it. It serves the reports, too, at /report/NAME."""
    from autotl.config import find_studies, find_study
    from autotl.study.dashboard import dashboard_server

    folder = find_study(name, output) if name else find_studies(output)
    folders = [folder] if isinstance(folder, Path) else folder
    console = Console()
    with (
        dashboard_server(folder, port, read_only=read_only, log=_show_warning) as server,
        suppress(KeyboardInterrupt),
    ):
        several = "1 study" if len(folders) == 1 else f"{len(folders)} studies"
        shown = folder if isinstance(folder, Path) else f"{several} of {output}, which it can't change"
        console.print(Text(escape(f"{server.url} shows {shown}. Ctrl-C ends it.")), soft_wrap=True)
        for study in folders:
            if (study / "report.html").is_file():
                console.print(Text(escape(f"{server.report_url(study.name)} is the report.")), soft_wrap=True)
        server.serve_forever()


def report(
    name: Study,
    images: Images = None,
    test: TestImages = None,
    output: Output = Path("studies"),
) -> None:
    """Write a study's report.html again, also while the search runs, and print its path."""
    from autotl.config import find_study
    from autotl.coordinator.report import report_study
    from autotl.ui.output import write_line

    folder = find_study(name, output)
    file = report_study(folder, data=images, test=test, log=_show_warning)
    write_line(str(file))

"""`autotl devices`: what hardware is here, which of it works, and what a search would use."""

import json
import warnings
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.ui.output import write_line

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    app.command()(devices)


def devices(
    time_limit: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Time that each device has for its answer.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")] = False,
) -> None:
    """Show the devices of this machine: what was found, whether it works, why not, and which workers a search starts.

    Each device is asked by a process of its own: it allocates, multiplies and convolves.
    """
    found = _found(time_limit)
    if as_json:
        write_line(json.dumps(found, indent=2))
        return
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for device in found["devices"]:
        mark, style = ("✓", "green") if device["usable"] else ("✗", "bold red")
        memory = f"{device['memory_bytes'] / 2**30:.0f} GiB" if device["memory_bytes"] else ""
        facts = filter(None, (device["model"], memory, device["precision"] if device["usable"] else ""))
        text = Text(", ".join(facts))
        if not device["usable"]:
            text.append(f"\nnot used: {device['reason']}", "yellow")
        table.add_row(Text.assemble((f"{mark} ", style), device["place"]), text)
    console.print(table)
    console.print(Text(f"torch {found['torch']['version'] or 'is not installed'}", "dim"))
    workers = ", ".join(f"{slot['name']} ({_cores(slot['threads'])})" for slot in found["auto"])
    console.print(f"--devices auto starts {len(found['auto'])} workers: {workers}", soft_wrap=True)


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"


def _found(time_limit: float) -> dict[str, Any]:
    from autotl.devices import parse_devices, slots_without
    from autotl.engines.probe import probe_apart
    from autotl.hardware import detect, torch_build

    machine = detect()
    models = {"cpu": f"{_cores(machine.cores)}", **machine.accelerators()}
    slots = [slot for place in models for slot in parse_devices(place, machine)]
    answers = probe_apart(slots, time_limit)
    rows = [
        {"place": place, "model": models[place], **asdict(answers[slot.place])}
        for place, slot in zip(models, slots, strict=True)
    ]
    rows[0]["memory_bytes"] = machine.memory
    rows += [
        {"place": "-", "model": gpu.model, "usable": False, "reason": gpu.reason, "memory_bytes": 0}
        for gpu in machine.unused
    ]
    failed = {row["place"] for row in rows if not row["usable"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows say it
        auto = slots_without(parse_devices("auto", machine), failed, machine)
    return {
        "torch": asdict(torch_build()),
        "cores": machine.cores,
        "memory_bytes": machine.memory,
        "devices": rows,
        "auto": [{"name": slot.name, "threads": slot.threads} for slot in auto],
    }

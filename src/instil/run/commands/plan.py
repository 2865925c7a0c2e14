"""`instil plan`: hours, memory, money and break-even before anything is spent; and the prices that it counts with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from instil.run.commands.options import AsJson, pipeline_of

plan_app = typer.Typer(
    help="Hours, memory, money and break-even, before anything is spent.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

_NEXT = "Next: instil plan --teacher gemma-3-27b --student gemma-3-4b --examples 50k"
Cloud = Annotated[str | None, typer.Option(help="azure or gcp; both unless told.")]


@plan_app.callback()
def plan(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Option(help="A wish in YAML; options go over it.")] = None,
    teacher: Annotated[str | None, typer.Option(help="gemma-3-27b, a hub id, a folder, a config.json.")] = None,
    student: Annotated[str | None, typer.Option(help="A model, a size such as 4b, or MODEL@20 for 20 layers.")] = None,
    examples: Annotated[str | None, typer.Option(help="Examples to train on, such as 50k.")] = None,
    source_tokens: Annotated[float | None, typer.Option(help="Tokens that the model reads. [default: 800]")] = None,
    target_tokens: Annotated[float | None, typer.Option(help="Tokens that it writes. [default: 120]")] = None,
    targets: Annotated[str | None, typer.Option(help="given, or teacher: it writes them. [default: given]")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the examples. [default: 3]")] = None,
    within: Annotated[str | None, typer.Option(help="Time limit, such as 3h.")] = None,
    budget: Annotated[float | None, typer.Option(help="Limit in USD.")] = None,
    cloud: Cloud = None,
    gpu: Annotated[str | None, typer.Option(help="Only this accelerator: h100, T4, v5e.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Exactly so many accelerators.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Spot prices.")] = False,
    requests_per_day: Annotated[str | None, typer.Option(help="Load that is served. [default: 10k]")] = None,
    grid: Annotated[str | None, typer.Option(help="us, eu, world ..., or grams of CO2 a kWh. [default: us]")] = None,
    emit: Annotated[str | None, typer.Option(help="Write a job: azureml, skypilot, slurm, torchrun or ray.")] = None,
    out: Annotated[Path, typer.Option(help="Where the job's files go.")] = Path("job"),
    run_recipe: Annotated[str, typer.Option(help="The recipe that the job runs.")] = "recipe.yaml",
    vault: Annotated[str | None, typer.Option(help="Key vault, or secret, that holds the hub's token.")] = None,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the break-even into this SVG file.")] = None,
    measure: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Time a few real steps of a recipe on this machine instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What to rent for distilling, how long it takes, what it costs and when it has paid for itself."""
    if context.invoked_subcommand is not None:
        return
    if measure is not None:
        _measure(measure, as_json)
        return
    from instil.run.commands.plan_wish import wish_of

    numbers = {"source_tokens": source_tokens, "target_tokens": target_tokens, "epochs": epochs, "gpus": gpus}
    words = {"teacher": teacher, "student": student, "targets": targets, "cloud": cloud, "gpu": gpu, "grid": grid}
    asked = wish_of(
        recipe, {**numbers, **words, "budget_usd": budget, "spot": spot or None}, examples=examples, within=within,
        requests_per_day=requests_per_day,
    )  # fmt: skip
    from instil.plan.answer import answer

    found = answer(asked)
    written = _write_job(found.choice, emit, out, run_recipe, vault) if emit else []
    if plot is not None:
        from instil.core import publish
        from instil.run.report.plan_plot import break_even_svg

        publish.write_text(plot, break_even_svg(found.paying))
    _show(found, as_json, written)


def _measure(recipe: Path, as_json: bool) -> None:
    from instil.core import console, units

    pipeline = pipeline_of(recipe)
    from instil.run import measure as measuring

    found = measuring.measure(pipeline)
    if as_json:
        console.emit_json(measuring.as_json(found) | {"next": f"instil run {recipe}"})
        return
    peak = "unknown here" if found.peak_bytes is None else units.size(found.peak_bytes)
    print(
        f"step     {units.seconds(found.step_seconds)} ({found.steps} steps measured, each within "
        f"{found.step_seconds_spread:.0%} of the prediction)\n"
        f"speed    {found.tokens_per_second:,.0f} tokens a second, {found.flops_per_second / 1e9:,.0f} GFLOP/s\n"
        f"memory   {peak} added by training at its peak\n"
        f"training {found.whole_steps:,.0f} steps, {units.seconds(found.whole_seconds)}\n"
        f"Next: instil run {recipe}"
    )


def _write_job(choice: Any, kind: str, out: Path, recipe: str, vault: str | None) -> list[str]:
    from instil.core import publish
    from instil.plan.jobs import job_files

    files = job_files(choice, kind, recipe=recipe, vault=vault)
    for name, text in files.items():
        publish.write_text(out / name, text)
    return [str(out / name) for name in files]


def _show(found: Any, as_json: bool, written: list[str]) -> None:
    from instil.core import console
    from instil.plan import answer as answers

    if as_json:
        console.emit_json(answers.as_json(found) | ({"job": written} if written else {}))
    else:
        print("\n".join(answers.lines(found)))
    if written:
        console.say(f"Wrote {', '.join(written)}; put your recipe beside it (instil init makes one)")
    if found.choice.best is None:
        raise typer.Exit(1)


@plan_app.command()
def prices(
    update: Annotated[Path | None, typer.Option(metavar="FILE", help="A CSV file of your own prices, kept.")] = None,
    cloud: Cloud = None,
    as_json: AsJson = False,
) -> None:
    """What clouds rent, with the date of each price; or take in prices of your own."""
    from instil.core import console
    from instil.plan import prices as catalog

    if update is not None:
        fresh = catalog.update(update)
        console.say(f"{len(fresh)} prices kept in {catalog.user_file()}; every later plan counts with them")
    known = catalog.instances()
    catalog.require_cloud(known, cloud)
    offered = [each for each in known if cloud in (None, each.cloud)]
    if as_json:
        console.emit_json([catalog.as_row(each) for each in offered])
        return
    for each in offered:
        usd, spot = (f"{price:10.2f}" if price is not None else f"{'-':>10}" for price in (each.usd, each.spot))
        what = f"{each.count} x {each.accelerator}"
        print(f"{each.cloud:<6} {each.name:<28} {what:<22} {usd} {spot}  {each.date}, {each.source}")
    print(
        "USD an hour, on demand and spot\nNext: instil plan --teacher gemma-3-27b --student gemma-3-4b --examples 50k"
    )


@plan_app.command()
def models(as_json: AsJson = False) -> None:
    """The built-in models with their parameters; any other is named by folder, config.json or hub id."""
    from instil.core import console
    from instil.plan.models import hub_ids, known_models
    from instil.plan.shape import parts

    hubs = hub_ids()
    if as_json:
        console.emit_json({name: {"hub": hubs[name], "parts": parts(shape)} for name, shape in known_models().items()})
        return
    for name, shape in known_models().items():
        print(f"{name:<22} {sum(parts(shape).values()):>15,}  {hubs[name]}")
    print(_NEXT)

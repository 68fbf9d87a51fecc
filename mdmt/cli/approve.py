"""``mdmt site approve``: an engineer reads what a recipe does, and approves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.cli.console import new_table, show_results

if TYPE_CHECKING:
    from rich.table import Table

    from client.deployment.plan import Plan
    from client.deployment.plan_facts import Facts

_WIDTH = 80
_LONGEST = 60
"""Characters of a value in the table of changes."""


def approve(
    federation: Annotated[
        Path | None,
        typer.Argument(help="The federation's file, or a kit.  [default: federation.yaml of KIT]"),
    ] = None,
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Approve without a question.")] = False,
) -> None:
    """Explain what a recipe runs, sends and may reveal, and approve it.

    Only approved recipes run at a site. A yes adds the SHA-256 of the recipe to policy.recipes in
    site.yaml. To take an approval back, delete its line there. The exit code is 1 after a no.
    """
    from client.deployment.approval import write_approval
    from client.deployment.plan import open_plan
    from client.deployment.plan_facts import Facts
    from client.deployment.plan_limits import refusals
    from mdmt.deployment.kits import open_site_kit

    given = federation
    if given is not None and given.is_dir():  # every other command takes the kit first
        kit, given = given, None
    opened = open_site_kit(kit)
    plan = open_plan(opened, given or opened.federation_file)
    facts = Facts(plan)
    explain(plan, facts)
    refused = refusals(facts)
    for refusal in refused:
        typer.echo(f"warning: this recipe will be refused: {refusal}", err=True)
    if plan.approved:
        write_approval(plan)  # the stored text may be missing
        typer.echo(f"{opened.site_file}: lists this recipe already; nothing was changed")
        return
    question = "Approve it all the same?" if refused else "Approve this recipe?"
    if not (yes or typer.confirm(question)):
        typer.echo("not approved; nothing was written")
        raise typer.Exit(1)
    write_approval(plan)
    typer.echo(f"{opened.site_file}: policy.recipes lists {plan.sha256}")
    typer.echo("It holds from the next message on. To take it back, delete this line.")


def explain(plan: Plan, facts: Facts) -> None:
    """Print the plan, section by section."""
    from client.deployment.protections import COORDINATOR

    name = plan.federation.name
    typer.echo(f"The federation {name} at the site {plan.site.name}")
    typer.echo(f"recipe {plan.sha256}")
    show_results(_runs(plan, facts), _leaves(facts), _protections(facts))
    show_results(_paragraph(COORDINATOR))
    _show_changes(plan)


def _runs(plan: Plan, facts: Facts) -> Table:
    from client.deployment.plan_facts import cache_folder, schedule

    recipe, training = plan.federation, plan.federation.training
    model = facts.model.backbone
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    table = _table("What will run", "", "")
    image = f"{recipe.model.image_size}² pixels"
    table.add_row("backbone", f"{recipe.model.backbone}, {millions:.3g} M weights, {image}")
    table.add_row("start", f"weights: {plan.initial_weights}")
    for task in plan.tasks:
        space = recipe.space(task)
        table.add_row(f"task {task}", f"{space.kind}: {', '.join(space.labels)}")
    length = f"{training.rounds} rounds of {facts.steps} steps ({schedule(training)})"
    dp = recipe.privacy.dp
    batch = f"{training.batch_size} images" if dp is None else f"{dp.sample_rate:g} of the patients"
    table.add_row("training", f"{length}, batches of {batch}")
    table.add_row("algorithm", f"{_words(recipe.algorithm)}; {_words(training.optimizer)}")
    for name, plugin in recipe.plugins.items():
        table.add_row("plug-in", f"{name} {plugin.version}, sha256 {plugin.sha256}")
    table.add_row("machine", f"{facts.threads} CPU threads, device {plan.site.device}")
    table.add_row("image cache", f"{_megabytes(facts.cache_bytes / 1e6)} in {cache_folder(plan)}")
    return table


def _leaves(facts: Facts) -> Table:
    from client.deployment.outgoing import outgoing

    columns = ("message", "content", ">MB each", ">at most", "fewest patients behind it")
    table = _table("What will leave", *columns)
    messages = outgoing(facts)
    for kind in messages:
        size = f"{kind.megabytes:.1f}" if kind.megabytes >= 0.1 else "< 0.1"
        table.add_row(kind.kind, kind.content, size, str(kind.messages), kind.patients)
    total = sum(kind.messages * kind.megabytes for kind in messages)
    count = sum(kind.messages for kind in messages)
    table.add_row("all of a run", "", f"{total:.1f}", str(count), "")
    return table


def _protections(facts: Facts) -> Table:
    from client.deployment.protections import protections

    table = _table("What an attacker can learn", "protection", "", "consequence")
    for item in protections(facts):
        table.add_row(item.name, "on" if item.on else "OFF", item.consequence)
    return table


def _show_changes(plan: Plan) -> None:
    """Print the difference from the recipe that was approved last."""
    found = plan.changes()
    if found is None:
        typer.echo("\nNo earlier recipe to compare with.")
        return
    earlier, changed = found
    table = _table(f"Changes since recipe {earlier[:16]}...", "key", "before", "now")
    for change in changed:
        table.add_row(change.key, _short(change.old), _short(change.new))
    show_results(table)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _words(options: Any) -> str:
    """Write an algorithm or optimiser with its options."""
    values = options.model_dump()
    name = values.pop("name")
    return " ".join([str(name), *(f"{key} {value}" for key, value in values.items())])


def _megabytes(size: float) -> str:
    return f"{size:.1f} MB" if size < 1000 else f"{size / 1000:.1f} GB"


def _table(title: str, *columns: str) -> Table:
    table = new_table(title, *columns)
    table.width = _WIDTH
    if not any(columns):
        table.show_header = False
    return table


def _paragraph(text: str) -> Any:
    import textwrap

    from rich.text import Text

    return Text("\n" + textwrap.fill(text, _WIDTH))

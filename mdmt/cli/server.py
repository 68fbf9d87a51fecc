"""``mdmt provision`` and ``mdmt server``: the commands of a coordinator."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mdmt.cli.console import FromRound, log_to_stderr, new_table, progress_console, show_results

server = typer.Typer(
    name="server", no_args_is_help=True, help="The server of a deployed federation."
)
Kit = Annotated[Path, typer.Argument(help="The server's folder that mdmt provision wrote.")]
KitOption = Annotated[
    Path, typer.Option("--kit", envvar="MDMT_KIT", help="The server's folder.", show_default=True)
]
DEFAULT_KIT = Path("kits/server")


def provision(
    federation: Annotated[
        str, typer.Argument(help="Federation YAML, or the name of one in the package.")
    ],
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the server for the sites.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the kits.")] = Path("kits"),
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A site; may be repeated.  [default: all of the federation]"
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="IP address of the server machine to listen on.  [default: all of them]",
        ),
    ] = None,
) -> None:
    """Write the CA, the server's kit, and a kit for each site, which holds no private key.

    A second run keeps every key and every site.yaml, adds missing sites and files, and renews the
    certificate of the server.
    """
    from mdmt.config import find_config, load_federation
    from server.deployment.provision import provision as write_kits

    path = find_config(federation)
    done = write_kits(load_federation(path), path, server, out, site or (), bind)
    table = new_table("kits", "", "", "folder", "saved")
    for item in done:
        saved = ", ".join(file.name for file in item.saved)
        table.add_row(item.what, item.done, str(item.folder), saved)
    show_results(table)
    typer.echo(f"Keep {out / 'ca'} offline. Give each site its folder. Then:")
    typer.echo(f"  mdmt server start {out / 'server'}")
    typer.echo("  mdmt site join            at each site; it sends you NAME.request")
    typer.echo(f"  mdmt server admit NAME.request --kit {out / 'server'}")


@server.command()
def start(kit: Kit = DEFAULT_KIT) -> None:
    """Run Flower's SuperLink and the proxy in front of it until interrupted."""
    from mdmt.deployment.kits import check_user, open_server_kit
    from mdmt.deployment.processes import only_one, until_stopped

    opened = open_server_kit(kit)
    check_user(opened)
    log_to_stderr()
    from server.deployment.superlink import serve_federation

    with until_stopped(), only_one(opened.folder / "server.lock", "this server"):
        serve_federation(opened)


@server.command()
def run(
    config: Annotated[str, typer.Argument(help="The federation's YAML.")],
    kit: KitOption = DEFAULT_KIT,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume, or watch, the run in --out or the newest one.")
    ] = False,
    from_round: FromRound = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory: new or empty, where the server may write.",
            show_default="KIT/runs/NAME",
        ),
    ] = None,
) -> None:
    """Train a federation with the sites that are connected, and show the results.

    The exit code is 0 only if the run is complete. Ctrl-C stops watching; the run continues.
    """
    from mdmt.cli.progress import watching
    from mdmt.cli.show import run_tables
    from mdmt.config import find_config, load_federation
    from mdmt.deployment.kits import open_server_kit
    from mdmt.errors import BadInput, IncompleteError
    from server.deployment.nodes import list_nodes
    from server.deployment.submission import follow_run, make_ready, submit, submitting
    from server.going_back import go_back
    from server.run import find_run, new_run_folder

    opened = open_server_kit(kit)
    loaded = load_federation(find_config(config)).model_copy(update={"sites": {}})
    if from_round is not None and not resume:
        raise BadInput("--from-round: needs --resume")
    resumed = find_run(out, loaded, opened.runs) if resume else None
    console = progress_console()
    with ExitStack() as watch:
        with submitting(opened):
            submitted = make_ready(opened, loaded, resumed)
            folder = resumed or new_run_folder(out, loaded.name, opened.runs)
            if from_round is not None:
                if submitted:
                    raise BadInput(f"--from-round: the run goes on; first mdmt server stop {kit}")
                go_back(folder, loaded, from_round)
            if away := [node.name for node in list_nodes(opened) if node.status != "online"]:
                seconds = f"{loaded.aggregation.join_timeout:.0f} s"
                console.print(f"not connected: {', '.join(away)}; registration waits {seconds}")
            watch.enter_context(watching(folder, loaded))
            if submitted:
                console.print(f"run {submitted} in {folder} is running")
            else:
                submitted = submit(opened, loaded, folder, resume=resume)
                console.print(f"running in {folder}, as Flower's run {submitted}")
        try:
            follow_run(opened, submitted)
        except KeyboardInterrupt:
            console.print(f"the run goes on: mdmt server status {kit}, or mdmt server stop {kit}")
            raise
        except IncompleteError:
            show_results(*run_tables(folder))
            raise
    show_results(*run_tables(folder))
    typer.echo(f"Run directory: {folder}")


@server.command()
def status(
    kit: Kit = DEFAULT_KIT,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait until the sites can connect.")
    ] = 0.0,
) -> None:
    """Show the state of the server, the connected sites, and the runs."""
    from mdmt.deployment.kits import open_server_kit
    from mdmt.errors import RunError
    from server.deployment.certificates import check_validity
    from server.deployment.control import healthy, list_runs
    from server.deployment.nodes import connected_since, list_nodes
    from server.deployment.submission import describe_run
    from server.deployment.superlink import reachable

    opened = open_server_kit(kit)
    deadline = time.monotonic() + wait
    while not ((up := healthy(opened)) and reachable(opened)):
        if time.monotonic() >= deadline:
            problem = f"the proxy is not running: see {opened.run_folder / 'nginx.log'}"
            missing = f"no SuperLink is running: start it with mdmt server start {kit}"
            raise RunError(problem if up else missing)
        time.sleep(0.5)
    sites = new_table(f"{opened.facts.federation}: sites", "site", "status", "since")
    for node in list_nodes(opened):
        sites.add_row(node.name, node.status, connected_since(node))
    for name in sorted(set(opened.facts.sites) - set(opened.admitted)):
        sites.add_row(name, "not admitted", "")
    runs = new_table("runs", "run", "status", "round", "folder")
    for found in list_runs(opened):
        runs.add_row(found.id, found.status, *describe_run(opened, found.id))
    valid = f"certificate valid for {check_validity(opened.certificate)} days"
    typer.echo(f"healthy; sites connect to {opened.facts.server}; {valid}")
    show_results(sites, runs)


@server.command()
def stop(kit: Kit = DEFAULT_KIT) -> None:
    """Stop the current run. `mdmt server run --resume` continues it later."""
    from mdmt.deployment.kits import open_server_kit
    from server.deployment.control import list_runs, stop_run

    opened = open_server_kit(kit)
    active = [found for found in list_runs(opened) if not found.finished]
    for found in active:
        stop_run(opened, found.id)
        typer.echo(f"run {found.id} is stopped")
    if not active:
        typer.echo("there is no current run")


@server.command()
def admit(
    request: Annotated[Path, typer.Argument(help="NAME.request, which mdmt site join wrote.")],
    kit: KitOption = DEFAULT_KIT,
    expected: Annotated[
        str | None,
        typer.Option(
            "--fingerprint", metavar="SHA256:...", help="What the site told you; nothing is asked."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Admit the key without a comparison.")] = False,
) -> None:
    """Admit the key of a site, after you compared its fingerprint with the site by phone.

    A running server lets the site in within half a minute.
    """
    from mdmt.deployment.keys import fingerprint
    from mdmt.deployment.kits import open_server_kit
    from mdmt.errors import BadInput
    from server.deployment.admission import admit_site, open_request

    opened = open_server_kit(kit)
    asked, known = open_request(opened, request)
    print_of_key = fingerprint(asked.public_key)
    typer.echo(f"{asked.name}: {print_of_key}")
    if expected is not None and expected.strip() != print_of_key:
        raise BadInput(
            f"{request}: the key is {print_of_key}, not {expected.strip()}: admit nothing, and ask"
            " the site to send its request again"
        )
    if known:
        typer.echo(f"{asked.name} is admitted with this key already")
        return
    if expected is None and not yes:
        question = f"Call {asked.name} on a number that you know. Is this the fingerprint there?"
        typer.confirm(question, abort=True)
    admit_site(opened, asked)
    typer.echo(f"{asked.name} is admitted; a running server lets it in within half a minute")


@server.command()
def revoke(
    site: Annotated[str, typer.Argument(help="Its name.")], kit: KitOption = DEFAULT_KIT
) -> None:
    """Revoke the key of a site: from now on the server refuses it.

    To let it in again, the site deletes site.key, runs `mdmt site join` and sends the new request
    for `mdmt server admit`.
    """
    from mdmt.deployment.kits import open_server_kit
    from server.deployment.nodes import revoke_site

    revoke_site(open_server_kit(kit), site)
    typer.echo(f"{site} is revoked")

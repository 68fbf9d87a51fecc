"""How every failing command ends: one line on standard error and an exit code."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from mdmt.errors import MDMTError

__all__ = ["INTERRUPTED", "Commands"]

INTERRUPTED = 130
"""128 + SIGINT, as in shells."""


class Commands(TyperGroup):
    """Commands whose errors are one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MDMTError as error:
            _report(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _report("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:  # the reader of a pipe has closed it: not an error
            raise
        except OSError as error:  # a full disk, a folder that may not be written to
            _report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(1) from error


def _report(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)

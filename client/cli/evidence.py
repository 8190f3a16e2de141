"""`blindhost evidence verify`, `show`: what hardware said, for programs and for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from client.cli.shared import JsonOption, lines
from client.evidence_show import explain_file
from client.evidence_verify import INPUT_BYTES_MAX, verify_json
from client.files import HomeError
from client.schema import json_schema
from trust.verifier.policy import AppraisalPolicy

FILE_BYTES_MAX: Final = 8 << 20

evidence = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(evidence, name="evidence", help="Verify or explain what hardware said.")


@evidence.command("verify")
def verify() -> None:
    """Verify the evidence in a JSON object on standard input; answer with one on standard output.

    Nothing else is read: no network, no clock, no file. Ends with 0 if it is accepted, 10 if it is
    refused, 30 if the input or the evidence is malformed. Schema: docs/spec/evidence.md.
    """
    answer = verify_json(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1))
    typer.echo(json.dumps(answer.to_json(), indent=1))
    raise typer.Exit(int(answer.exit))


@evidence.command("show")
def show_file(
    file: Annotated[Path, typer.Argument(help="A report, a quote, or any evidence; - for stdin.")],
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Explain a report, quote or GPU evidence field by field. Nothing in it is believed by it."""
    if str(file) == "-":
        data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    else:
        try:
            with file.open("rb") as opened:
                data = opened.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise HomeError(f"{file.name}: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise HomeError(f"{file.name}: over {FILE_BYTES_MAX} bytes")
    found = explain_file(data)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    lines(found.title, found.lines())


@evidence.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of an appraisal policy: docs/spec/appraisal-policy.schema.json."""
    schema = json_schema(AppraisalPolicy, title="Blindhost appraisal policy, version 1")
    typer.echo(json.dumps(schema, indent=1, ensure_ascii=False))

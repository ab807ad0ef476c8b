"""The recipes for services are valid, and their commands exist."""

from __future__ import annotations

import configparser
import plistlib
from pathlib import Path

import yaml

from curation_features.cli.app import parser

SERVICES = Path(__file__).resolve().parents[2] / "examples" / "services"


def test_services_start_a_command_that_exists() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(SERVICES / "curation-features-watch.service")
    plist = plistlib.loads((SERVICES / "local.curation-features.watch.plist").read_bytes())
    compose = yaml.safe_load((SERVICES / "compose.yaml").read_bytes())["services"]["watch"]
    commands = (unit["Service"]["ExecStart"].split(), plist["ProgramArguments"], compose["command"])
    for program, *arguments in commands:
        assert Path(program).name == "curation-features"
        assert parser().parse_args(arguments).command.__name__ == "watch"
    for copied in compose["build"]["dockerfile_inline"].split("COPY ")[1:]:
        *names, _ = copied.splitlines()[0].split()
        assert all((SERVICES / compose["build"]["context"] / name).exists() for name in names)

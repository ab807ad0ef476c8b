"""The command `config show`: each setting with its value, where it came from and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from curation_features.cli.command import COMMAND, Outcome, declare
from curation_features.cli.terminal import console, printable, say
from curation_features.errors import InputError
from curation_features.settings import ENV_PREFIX, SPECS, LoadedSettings, Settings, legal_values, nearest, recomputed

FIELDS = {
    "root": "{value, origin}: the project's root",
    "file": "the settings file, which need not be there",
    "settings": "[{name, value, origin, default, meaning, legal, recomputes, variable, secret}]",
}


_SET = "(set)"  # in the place of a secret


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    config = commands.add_parser("config", help="the settings").add_subparsers(required=True, metavar=COMMAND)
    command = declare(config, "show", config_show, "curation-features config show device precision", FIELDS)
    command.add_argument("names", nargs="*", metavar="NAME", help="tell all of these settings (default: a list of all)")
    command.add_argument("--all", action="store_true", help="tell all of every setting")


def config_show(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show each setting with its value and where that came from; of named ones also what they do."""
    from curation_features.settings import load_with_origins

    given = getattr(args, "root", None)
    loaded = load_with_origins(given)
    for name in args.names:
        if name not in SPECS:
            raise InputError(f"there is no setting {name!r}{nearest(name, SPECS)}")
    found = [_described(name, loaded) for name in args.names or SPECS]
    root = {
        "value": loaded.settings.root,
        "origin": "--root" if given else loaded.origins.get("root", "current folder"),
    }
    fields = {"root": root, "file": loaded.file, "settings": found}
    return Outcome(fields, partial(_show_each, found) if args.names or args.all else partial(_show_list, fields))


def _described(name: str, loaded: LoadedSettings) -> dict[str, Any]:
    spec = SPECS[name]
    value, secret = getattr(loaded.settings, name), spec.metadata["secret"]
    return {
        "name": name,
        "value": value if not secret else _SET if value else None,
        "origin": loaded.origins.get(name, "default"),
        "default": spec.default,
        "meaning": spec.metadata["help"],
        "legal": legal_values(spec),
        "recomputes": recomputed(spec),
        "variable": f"{ENV_PREFIX}{name.upper()}",
        "secret": secret,
    }


def _show_list(fields: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", max_width=36, overflow="fold")
    table.add_column("from", overflow="fold")
    for setting in fields["settings"]:
        style = "dim" if setting["origin"] == "default" else "bold"
        origin = setting["origin"].replace(f"{fields['root']['value']}/", "")
        table.add_row(*(Text(printable(cell), style) for cell in (setting["name"], _value(setting), origin)))
    say(f"project: {fields['root']['value']} ({fields['root']['origin']})")
    say(f"settings file: {fields['file']}{'' if fields['file'].exists() else ' (not there)'}")
    console().print(table)
    say("What one of them does: curation-features config show NAME; all: --all", style="dim")


def _show_each(settings: Sequence[Mapping[str, Any]]) -> None:
    for setting in settings:
        say(f"{setting['name']} = {_value(setting)}", style="bold")
        say(f"  {setting['meaning']}")
        say(f"  from: {setting['origin']}")
        say(f"  default: {_toml(setting['default'])}; legal: {setting['legal']}")
        say(f"  a change recomputes: {', '.join(setting['recomputes']) or 'nothing'}")
        say(f"  in the environment: {setting['variable']}")


def _value(setting: Mapping[str, Any]) -> str:
    return _SET if setting["secret"] and setting["value"] else _toml(setting["value"])


def _toml(value: Any) -> str:
    """A value as the settings file has it."""
    import json

    if value is None:
        return "unset"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, float) else repr(value)

"""Shows each setting with its value, origin and meaning: `config show`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from curation_features.cli.command import Outcome, add_group, declare
from curation_features.cli.terminal import FOLD, LEFT, console, make_table, printable, say
from curation_features.errors import InputError
from curation_features.settings import ENV_PREFIX, SPECS, LoadedSettings, Settings, legal_values, nearest, recomputed

FIELDS = {
    "root": "{value, origin}: the project's root",
    "file": "path of the settings file, which may not exist",
    "settings": "[{name, value, origin, default, meaning, legal, recomputes, variable, secret}]",
}

_SET = "(set)"  # replaces a secret


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    config = add_group(commands, "config", "the settings")
    command = declare(config, "show", config_show, "curation-features config show device precision", FIELDS)
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="show details of these settings (default: a list of all)"
    )
    command.add_argument("--all", action="store_true", help="show details of every setting")


def config_show(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show each setting with its value and origin; with names or --all, also details."""
    from curation_features.settings import load_with_origins

    given = getattr(args, "root", None)
    loaded = load_with_origins(given)
    for name in args.names:
        if name not in SPECS:
            raise InputError(f"unknown setting {name!r}{nearest(name, SPECS)}")
    described = [_describe(name, loaded) for name in args.names or SPECS]
    root = {
        "value": loaded.settings.root,
        "origin": "--root" if given else loaded.origins.get("root", "current folder"),
    }
    fields = {"root": root, "file": loaded.file, "settings": described}
    return Outcome(fields, partial(_show_each, described) if args.names or args.all else partial(_show_list, fields))


def _describe(name: str, loaded: LoadedSettings) -> dict[str, Any]:
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
    from rich.text import Text

    rows = []
    for setting in fields["settings"]:
        style = "dim" if setting["origin"] == "default" else "bold"
        origin = setting["origin"].replace(f"{fields['root']['value']}/", "")
        rows.append([Text(printable(cell), style) for cell in (setting["name"], _format_value(setting), origin)])
    say(f"project: {fields['root']['value']} ({fields['root']['origin']})")
    say(f"settings file: {fields['file']}{'' if fields['file'].exists() else ' (missing)'}")
    console().print(make_table({"setting": LEFT, "value": {"max_width": 36, **FOLD}, "from": FOLD}, rows, gap=2))
    say("details: curation-features config show NAME, or --all", style="dim")


def _show_each(settings: Sequence[Mapping[str, Any]]) -> None:
    for setting in settings:
        say(f"{setting['name']} = {_format_value(setting)}", style="bold")
        say(f"  {setting['meaning']}")
        say(f"  from: {setting['origin']}")
        say(f"  default: {_to_toml(setting['default'])}; legal: {setting['legal']}")
        say(f"  a change recomputes: {', '.join(setting['recomputes']) or 'nothing'}")
        say(f"  in the environment: {setting['variable']}")


def _format_value(setting: Mapping[str, Any]) -> str:
    return _SET if setting["secret"] and setting["value"] else _to_toml(setting["value"])


def _to_toml(value: Any) -> str:
    """Format a value like in the settings file."""
    import json

    if value is None:
        return "unset"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, float) else repr(value)

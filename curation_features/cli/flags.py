"""Lists flagged photos, and offers limits for a collection: `flags list`, `flags calibrate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.text import Text

from curation_features.cli.command import Outcome, add_group, declare
from curation_features.cli.manifests import BATCH_HELP, batch_id_of
from curation_features.cli.terminal import FOLD, LEFT, RIGHT, console, count_of, doing, make_table, printable, say
from curation_features.errors import InputError
from curation_features.settings import ENV_PREFIX, Settings, expand_home, nearest

if TYPE_CHECKING:
    import pandas as pd

    from curation_features.signals.calibration import Offer
    from curation_features.storage.artifacts import ArtifactStore

LIST_FIELDS = {
    "batch_id": "id of the batch",
    "artifacts": "number of artifacts",
    "flagged": "number of artifacts with a flag",
    "photos": "[{photo, position, photo_id, flags, hints, flag_reasons}]: artifacts with a flag or a hint",
}
CALIBRATE_FIELDS = {
    "batches": "ids of the batches",
    "skipped": "[{batch_id, remedy}]: batches of an earlier release, without signals",
    "photos": "number of distinct photos with signals",
    "flagged": "photos with a flag, under the present limits",
    "would_flag": "photos with a flag, under all offers",
    "limits": "[{setting, flags, signal, value, origin, measured, flagged, share, percentile, offer, would_flag, "
    "would_share, few}]",
    "settings": "lines for config/settings.toml, to accept the offers",
    "file": "path of the settings file, which may not exist",
}

_CAVEATS = (
    "A percentile finds unusual photos, not bad ones: sort the contact sheet by the signal, and look at the photos "
    "over a limit before you change it.",
    "A collection with many blurred, noisy or dark photos offers limits that are too high.",
)


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    flags = add_group(commands, "flags", "the flags of photos and their limits")
    command = declare(flags, "list", flags_list, "curation-features flags list trip", LIST_FIELDS)
    command.add_argument("batch", type=expand_home, metavar="BATCH", help=f"{BATCH_HELP}; it must be finished")
    command = declare(flags, "calibrate", flags_calibrate, "curation-features flags calibrate", CALIBRATE_FIELDS)
    which = f"{BATCH_HELP} (default: all finished batches)"
    command.add_argument("batches", nargs="*", type=expand_home, metavar="BATCH", help=which)


def flags_list(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the photos of a batch that have a flag or a hint, with the reasons."""
    from curation_features.atomic_files import reading
    from curation_features.report.text import display_paths
    from curation_features.storage.artifacts import ArtifactStore
    from curation_features.storage.tables import read_rows

    store = ArtifactStore(settings.data_path)
    [batch_id] = _finished([batch_id_of(args.batch, settings)], store)
    if not _has_signals(batch_id, store):
        raise InputError(f"batch {batch_id!r} is of an earlier release, without signals: {_remedy(batch_id)}")
    names, path = ("position", "photo_id", "flags", "hints", "flag_reasons"), store.feature_paths(batch_id)[1]
    with doing("reading the batch"), reading(path, _remedy(batch_id)):
        rows = list(read_rows(path, (*names, "artifact")))
        paths = display_paths(json.loads(row["artifact"]) for row in rows)
    photos = [
        {"photo": shown, **{name: row[name] for name in names}}
        for row, shown in zip(rows, paths, strict=True)
        if row["flag_reasons"]
    ]
    flagged = sum(bool(photo["flags"]) for photo in photos)
    fields = {"batch_id": batch_id, "artifacts": len(rows), "flagged": flagged, "photos": photos}
    return Outcome(fields, partial(_show_photos, fields))


def _show_photos(fields: Mapping[str, Any]) -> None:
    """Print one line for each reason: flagged photos first, then those with hints only."""
    rows: list[tuple[str | Text, ...]] = []
    for photo in sorted(fields["photos"], key=lambda photo: not photo["flags"]):
        for number, text in enumerate(photo["flag_reasons"]):
            name, _, reason = text.partition(": ")
            shown = Text(printable(name), "yellow" if name in photo["flags"] else "dim")
            rows.append(("" if number else photo["photo"], shown, reason))
    if rows:
        console().print(make_table({"photo": FOLD, "flag": LEFT, "reason": FOLD}, rows))
    hinted = len(fields["photos"]) - fields["flagged"]
    photos = count_of(fields["artifacts"], "artifact")
    say(f"{fields['flagged']} of {photos} flagged, and {hinted} more with hints", style="bold")


def flags_calibrate(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Show what each limit flags, and offer limits from your own photos; changes nothing."""
    from curation_features.settings import load_with_origins
    from curation_features.signals.calibration import flagged_photos, offered_limits, offers
    from curation_features.signals.flags import limits_of
    from curation_features.storage.artifacts import ArtifactStore

    loaded, store = load_with_origins(getattr(args, "root", None)), ArtifactStore(settings.data_path)
    chosen = _finished([batch_id_of(given, settings) for given in args.batches], store)
    batches = [batch_id for batch_id in chosen if _has_signals(batch_id, store)]
    if not batches:
        named = ", ".join(chosen[:3])
        raise InputError(f"all batches ({named}) are of an earlier release, without signals: {_remedy(chosen[0])}")
    with doing("reading batches"):
        values, photos = _read_signals(batches, settings, store)
    limits = limits_of(settings)
    found = offers(values, limits)
    fields = {
        "batches": batches,
        "skipped": [{"batch_id": name, "remedy": _remedy(name)} for name in chosen if name not in batches],
        "photos": photos,
        "flagged": flagged_photos(values, limits),
        "would_flag": flagged_photos(values, offered_limits(found, limits)),
        "limits": [_offer_fields(one, loaded.origins.get(f"limit_{one.limit}", "default")) for one in found],
        "settings": [f"limit_{one.limit} = {one.offer!r}" for one in found if one.offer not in (None, one.value)],
        "file": loaded.file,
    }
    return Outcome(fields, partial(_show_offers, fields, settings))


def _offer_fields(one: Offer, origin: str) -> dict[str, Any]:
    def share(count: int | None) -> float | None:
        return round(count / one.measured, 4) if count is not None and one.measured else None

    return {
        "setting": f"limit_{one.limit}",
        "flags": one.flags,
        "signal": one.signal,
        "value": one.value,
        "origin": origin,
        "measured": one.measured,
        "flagged": one.flagged,
        "share": share(one.flagged),
        "percentile": one.percentile,
        "offer": one.offer,
        "would_flag": one.would_flag,
        "would_share": share(one.would_flag),
        "few": one.is_of_few,
    }


def _show_offers(fields: Mapping[str, Any], settings: Settings) -> None:
    from curation_features.signals.calibration import FEW, PERCENTILE

    for skipped in fields["skipped"]:
        say(f"skipped: {skipped['batch_id']}, of an earlier release, without signals: {skipped['remedy']}", "yellow")
    rows = [
        (
            one["setting"].removeprefix("limit_"),
            one["signal"],
            f"{one['value']:g}",
            one["origin"].replace(f"{settings.root}/", ""),
            f"{one['measured']:,}",
            _count(one["flagged"], one["share"]),
            _percentile(one, PERCENTILE),
            _count(one["would_flag"], one["would_share"]),
        )
        for one in fields["limits"]
    ]
    columns = {"limit": LEFT, "signal": LEFT, "now": RIGHT, "from": FOLD, "photos": RIGHT, "flags": RIGHT}
    console().print(make_table({**columns, "offer": RIGHT, "would flag": RIGHT}, rows))
    batches = "1 batch" if len(fields["batches"]) == 1 else f"{len(fields['batches']):,} batches"
    numbers = f"{fields['flagged']:,} flagged now, {fields['would_flag']:,} with all offers"
    say(f"{count_of(fields['photos'], 'photo')} in {batches}: {numbers}", style="bold")
    say(f"The offers are the {PERCENTILE:g}th percentiles of these photos (*: the 90th, for a limit that only sorts).")
    if fields["photos"] < FEW:
        say(f"Fewer than {FEW} photos: one or two of them decide a 99th percentile, which tells little.", "yellow")
    for caveat in _CAVEATS:
        say(caveat, style="dim")
    if fields["settings"]:
        say(f"To accept offers, write their lines into {fields['file']}, instead of any of the same name:")
    for line in fields["settings"]:
        say(line)
    if overridden := [one["setting"] for one in fields["limits"] if one["origin"].startswith(ENV_PREFIX)]:
        say(f"The environment overrides the file: {', '.join(overridden)}", "yellow")


def _count(count: int | None, share: float | None) -> str:
    return "-" if count is None else f"{count:,}" if share is None else f"{count:,} ({share:.1%})"


def _percentile(one: Mapping[str, Any], usual: float) -> str:
    mark = "" if one["percentile"] == usual else "*"
    return "-" if one["offer"] is None else f"{one['offer']:g}{mark}"


# Batches -------------------------------------------------------------------------------------------------------------


def _finished(batch_ids: Sequence[str], store: ArtifactStore) -> list[str]:
    """Return the finished batches among `batch_ids`, or all of the project. Raises `InputError` if one is missing."""
    finished, folder = store.finished_batch_ids(), store.data_path / "features"
    if not batch_ids and not finished:
        raise InputError(f"no batch in {folder} is finished; to process one: curation-features process MANIFEST")
    for batch_id in batch_ids:
        if batch_id not in finished:
            remedy = nearest(batch_id, finished) or "; to process it: curation-features process MANIFEST"
            raise InputError(f"batch {batch_id!r} has no finished features in {folder}{remedy}")
    return list(dict.fromkeys(batch_ids)) or finished


def _has_signals(batch_id: str, store: ArtifactStore) -> bool:
    """Whether the table of a batch has signals; that of an earlier release has none."""
    from curation_features.atomic_files import open_regular, reading
    from curation_features.storage.tables import read_metadata

    path = store.feature_paths(batch_id)[1]
    with reading(path, _remedy(batch_id)):
        open_regular(path).close()
        return "signals" in read_metadata(path)["version"]


def _remedy(batch_id: str) -> str:
    return f"compute them: curation-features process {batch_id}"


def _read_signals(batches: Sequence[str], settings: Settings, store: ArtifactStore) -> tuple[dict[str, Any], int]:
    """Read the signals with limits of distinct photos by their bytes: those of the batch finished last."""
    from curation_features.signals.calibration import SIGNALS
    from curation_features.storage.frames import read_features

    newest = sorted(batches, key=lambda batch_id: -store.feature_paths(batch_id)[0].stat().st_mtime_ns)
    columns = ["sha256", *SIGNALS]
    frame: pd.DataFrame = read_features(*newest, settings=settings, columns=columns)
    frame = frame.dropna(subset=["sha256"]).drop_duplicates("sha256")
    return {name: frame[name].to_numpy(dtype=float) for name in SIGNALS}, len(frame)

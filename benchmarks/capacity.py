"""Predict time, cost, files, disk and Dagster's records of an archive, and name what limits it.

A model, not a measurement: `CONSTANTS` lists every number with its source. `archive.py` and `partitions.py` measure
what one machine can measure; `archive.py` compares. Seconds are those of a quiet machine if the source is one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from measure import Report

ARCHIVES = (2_000, 200_000, 10_000_000, 1_000_000_000)
SHARD = 2_000


@dataclass(frozen=True, slots=True)
class Constant:
    """A number with its unit and its source; `is_assumed`: it was not measured by us."""

    value: float
    unit: str
    source: str
    is_assumed: bool = False


CONSTANTS: Mapping[str, Constant] = {
    # time of one photo
    "prepare": Constant(0.024, "CPU s", "contact_sheet.py --only pass: (38 + 10.3) / 2,000; with the page; AVX2"),
    "fingerprint": Constant(0.011, "CPU s", "14 to 17 ms at load 4 to 10, a third of it shared with the signals since"),
    "brisque_cpu": Constant(0.024, "CPU s", "cpu_metrics.py, AVX-512; on a CPU only"),
    "models_cpu": Constant(3.2, "CPU s", "peers.py, quiet AVX2: ViT-L/14 2.68, RN50 0.54; int8 takes 0.6 of it"),
    "models_gpu": Constant(0.001, "GPU s", "forward passes at least 0.24 ms, BRISQUE 0.5 ms; no GPU measured", True),
    "prepare_gpu": Constant(0.023, "CPU s", "README, On a GPU: 13 to 20 ms; and 5 ms of the contact sheet", True),
    "cached": Constant(0.0039, "CPU s", "archive.py, 2,000 - 400 photos, load 13; a quiet machine needs a third"),
    "ingest": Constant(0.32, "CPU s", "ingest.py, first time, 24 megapixels"),
    "gather": Constant(1 / 33_900, "CPU s", "gather.py, 200,000 rows; 34,700 with 10 million"),
    # time of one shard
    "shard": Constant(0.35, "CPU s", "scale.py: 0.236 of a shard of five photos, and 0.116 of the engine"),
    "finished": Constant(0.0047, "CPU s", "scale.py: a finished shard is skipped"),
    "finished_photo": Constant(0.12e-3, "CPU s per photo", "archive.py, 20,000: its manifest is read; load 12"),
    "listing": Constant(4e-6, "CPU s per known shard", "100,000 names: journal 0.18 s, manifests 0.23; load 10"),
    "start": Constant(0.85, "CPU s per process", "archive.py: a pass over one finished shard, less its manifest"),
    "load": Constant(10, "s per process", "1.9 GB of weights from a disk; 1.5 s from its cache (loading.py)", True),
    # bytes of one photo, and files
    "photo_bytes": Constant(220_000, "B", "gpu.py: JPEG of 1024 px, quality 90"),
    "features_bytes": Constant(6_900, "B", "archive.py, shards of 200 and 2,000: JSON, table, 768 numbers, page"),
    "stages_bytes": Constant(2_000, "B", "archive.py, shards of 200 and 2,000"),
    "cache_bytes": Constant(6_900, "B", "archive.py: one file a photo, without its fingerprint"),
    "fingerprint_bytes": Constant(24_500, "B", "37 real photos: 10.5 kB in the stages, 14.0 kB (base64) in the cache"),
    "thumbnail_bytes": Constant(6_400, "B", "archive.py, 1024 px: one file a photo; in the page as base64, 4/3 of it"),
    "manifest_bytes": Constant(530, "B", "archive.py, the accepted one; that of the shard is outside data/ there"),
    "shard_bytes": Constant(1_030_000, "B a shard", "archive.py, shards of 200 and 2,000: labels, page, tables' heads"),
    "vector_bytes": Constant(768 * 2, "B", "float16, as `gather --float16` writes them"),
    "pq_bytes": Constant(64, "B", "product quantisation, 64 codes of 8 bits (Jegou et al., 2011)", True),
    "files_of_shard": Constant(11, "files", "manifest; JSON, table, embeddings, page; 3 stages; 2 events; adoption"),
    # Dagster's records of one shard
    "sqlite_run_bytes": Constant(314_000, "B", "partitions.py: 37 events; 109 kB in all, and 205 kB in the run's file"),
    "postgres_run_bytes": Constant(88_000, "B", "partitions.py: 37 events"),
    "adopted_bytes": Constant(23_500, "B", "partitions.py --command process, SQLite, 100,000; PostgreSQL 12 kB"),
    # machines
    "network": Constant(1.25e9, "B/s", "10 Gbit/s for each machine; stores often give less to one client", True),
    "home_network": Constant(12.5e6, "B/s", "100 Mbit/s", True),
    "gpu_hour": Constant(3.0, "USD", "an H100 with 16 cores; put in your own price", True),
    "request": Constant(0.4e-6, "USD", "one GET of an object store; put in your own price", True),
    # limits
    "folder_files": Constant(5e6, "files", "ext4, 4 KiB blocks, names of 69 letters: 78,598 with 1 KiB, scaled"),
    "page_seconds": Constant(10, "s", "a page that takes longer counts as broken", True),
    "partition_state": Constant(0.48e-3, "s per partition", "partitions.py, PostgreSQL: 12 s for 25,000; load 16"),
    "inode_bytes": Constant(16_384, "B of disk per file", "default of mkfs.ext4"),
    "manifest_memory": Constant(3_000, "B per photo", "docs/scale.md"),
}


def value(name: str) -> float:
    return CONSTANTS[name].value


@dataclass(frozen=True, slots=True)
class Hardware:
    """Machines that share one archive.

    Attributes:
        cores: of all machines.
        gpus: of all machines; 0: models run on the cores.
        network: B/s from the photos to all machines.
        price: USD an hour, of all machines; 0: owned.
        prepare: CPU s to read, decode and measure a photo, without models.
        models: CPU s, or GPU s, of the models for a photo.
    """

    name: str
    cores: int
    gpus: int
    network: float
    price: float
    prepare: float
    models: float


def laptop(cores: int) -> Hardware:
    prepare = value("prepare") + value("fingerprint") + value("brisque_cpu")
    return Hardware(f"laptop, {cores} cores", cores, 0, value("home_network"), 0, prepare, value("models_cpu"))


def gpus(count: int) -> Hardware:
    """Machines of up to eight GPUs, with 16 cores for each GPU."""
    machines = math.ceil(count / 8)
    network, price = machines * value("network"), count * value("gpu_hour")
    prepare = value("prepare_gpu") + value("fingerprint")
    name = f"{count} x H100, {16 * count} cores"
    return Hardware(name, 16 * count, count, network, price, prepare, value("models_gpu"))


HARDWARE = (laptop(2), laptop(8), gpus(1), gpus(8), gpus(64))
STAND_INS = Hardware("stand-ins, photos of 128 px", 1, 0, math.inf, 0, 0.0173, 0)
"""The machine of `archive.py`. `prepare` is that of its run of 2,000 photos: other numbers are predicted."""


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos of an archive.

    Attributes:
        thumbnail: B of a thumbnail.
        distinct: most files with different content; the same content has one thumbnail.
    """

    thumbnail: float = value("thumbnail_bytes")
    distinct: float = math.inf


@dataclass(frozen=True, slots=True)
class Prediction:
    """Needs of an archive.

    Attributes:
        seconds: elapsed time of the stages, by name; they overlap, but for the shards.
        first_cpu_s, cached_cpu_s, finished_cpu_s: CPU s of a first pass, of one from the cache, of one that finds
            everything finished.
        files, data_bytes: of one data folder, without reduced copies and Dagster.
        dagster_bytes: by the way of the shards into Dagster.
        usd: machines and requests.
    """

    photos: int
    shards: int
    seconds: Mapping[str, float]
    first_cpu_s: float
    cached_cpu_s: float
    finished_cpu_s: float
    files: int
    data_bytes: float
    dagster_bytes: Mapping[str, float]
    index_bytes: Mapping[str, float]
    usd: float

    @property
    def elapsed_s(self) -> float:
        """Time from start to end: the longest of the stages that overlap, and those that do not."""
        return sum(self.seconds[name] for name in ("start", "shards")) + max(
            self.seconds[name] for name in ("processor", "GPU", "network")
        )

    @property
    def limit(self) -> str:
        """The stage that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def predict(photos: int, on: Hardware, size: int = SHARD, kind: Photos | None = None) -> Prediction:
    """Predict an archive of so many photos on some hardware, in shards of `size` photos."""
    kind = kind or Photos()
    shards, thumbnails = max(1, round(photos / size)), min(photos, kind.distinct)
    workers = on.gpus or max(1, on.cores // 4)  # as `engines.placement`
    fixed = shards * value("shard") + value("listing") * shards**2 / 2  # a new shard looks for its id among the others
    on_cores = photos * (on.prepare if on.gpus else on.prepare + on.models)
    seconds = {
        "start": value("start") + (value("load") if on.models else 0),
        "shards": fixed / min(workers, shards),
        "processor": on_cores / on.cores,
        "GPU": photos * on.models / on.gpus if on.gpus else 0.0,
        "network": photos * value("photo_bytes") / on.network,
    }
    of_photo = (
        sum(map(value, ("features_bytes", "stages_bytes", "cache_bytes", "fingerprint_bytes", "manifest_bytes")))
        + kind.thumbnail * 4 / 3
    )
    predicted = Prediction(
        photos=photos,
        shards=shards,
        seconds=seconds,
        first_cpu_s=value("start") + on_cores + fixed,
        cached_cpu_s=value("start") + photos * value("cached") + fixed,
        finished_cpu_s=value("start") + shards * value("finished") + photos * value("finished_photo"),
        files=int(photos + thumbnails + shards * value("files_of_shard")),
        data_bytes=photos * of_photo + thumbnails * kind.thumbnail + shards * value("shard_bytes"),
        dagster_bytes={
            "SQLite, a run each": shards * value("sqlite_run_bytes"),
            "PostgreSQL, a run each": shards * value("postgres_run_bytes"),
            "adopted": shards * value("adopted_bytes"),
        },
        index_bytes={"float16": photos * value("vector_bytes"), "64 B codes": photos * value("pq_bytes")},
        usd=0.0,
    )
    paid = predicted.elapsed_s / 3600 * on.price + (photos * value("request") if on.price else 0)
    return replace(predicted, usd=paid)


def breaks(predicted: Prediction) -> list[str]:
    """Name the limits that an archive in one data folder exceeds, first those that are reached first."""
    photos = predicted.photos
    found = [
        (
            photos * value("manifest_memory") > 8e9,
            "`ingest` of one manifest: more than 8 GB of memory",
            8e9 / value("manifest_memory"),
        ),
        (photos > value("folder_files"), "one folder of the cache: full on ext4", value("folder_files")),
        (
            predicted.shards * value("partition_state") > value("page_seconds"),
            "Dagster: a page of all partitions takes too long",
            SHARD * value("page_seconds") / value("partition_state"),
        ),
        (
            value("listing") * predicted.shards > value("shard"),
            "a new shard lists all others",
            SHARD * value("shard") / value("listing"),
        ),
    ]  # fmt: skip
    return [what for is_exceeded, what, _ in sorted(found, key=lambda one: one[2]) if is_exceeded]


def duration(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("y", 365 * 86_400), ("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"


def report_time() -> Report:
    report = Report("Predicted time of a first pass, and its limit")
    for photos in ARCHIVES:
        for on in HARDWARE:
            found = predict(photos, on)
            report.add(
                f"{photos:,}, {on.name}", time=duration(found.elapsed_s), limit=found.limit, USD=found.usd,
                **{"photos/s": photos / found.elapsed_s},
            )  # fmt: skip
    return report


def report_disk() -> Report:
    report = Report("Predicted files, disk (GB) and limits, in one data folder")
    for photos in ARCHIVES:
        found = predict(photos, HARDWARE[0])
        sizes = {**found.dagster_bytes, **{f"index, {name}": size for name, size in found.index_bytes.items()}}
        report.add(
            f"{photos:,}", shards=found.shards, files=found.files, data=found.data_bytes / 1e9,
            **{"disk for inodes": found.files * value("inode_bytes") / 1e9},
            **{name: size / 1e9 for name, size in sizes.items()},
            **{"photos": photos * value("photo_bytes") / 1e9, "gather, CPU h": photos * value("gather") / 3600},
            **{"exceeds": "; ".join(breaks(found)) or "nothing"},
        )  # fmt: skip
    return report


def report_constants() -> Report:
    report = Report("Constants")
    for name, one in CONSTANTS.items():
        source = f"ASSUMED: {one.source}" if one.is_assumed else one.source
        report.add(name, value=f"{one.value:.4g}", unit=one.unit, source=source)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write the tables to this folder as well")
    options = parser.parse_args()
    for name, report in {"time": report_time(), "disk": report_disk(), "constants": report_constants()}.items():
        report.show(options.json / f"{name}.json" if options.json else None)


if __name__ == "__main__":
    main()

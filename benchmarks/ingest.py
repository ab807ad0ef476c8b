"""Measure `ingest`: 24-megapixel JPEGs for the first time and again, and a pass over 1024 px JPEGs with decoder
processes against threads.

"Straightforward" is what a script does with Pillow: load, reduce with Lanczos to 2048 and to 1024 px, write both, read
EXIF. CPU seconds include child processes that have ended.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

from measure import Report, arguments, interleaved, median_ratio
from photos import write_photos
from PIL import Image

SIDE = 6000
"""Long side of the photos, px: about 24 megapixels."""

INGEST = (
    "import sys; from pathlib import Path; from curation_features import Settings; "
    "from curation_features.ingest.folder import ingest; "
    "ingest(sorted(Path(sys.argv[2]).glob('*.jpg')), Settings(root=Path(sys.argv[1])), batch_id='b')"
)
PASS = (
    "import sys; from pathlib import Path; from curation_features import Settings; "
    "from cached import batch_of, service; "
    "settings = Settings(root=Path(sys.argv[1]), data_dir=sys.argv[3], isolate_decoders=sys.argv[4] == 'processes', "
    "device='cpu'); "
    "service(settings).process(batch_of(sorted(Path(sys.argv[2]).glob('*.jpg'))))"
)


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU seconds of an action's child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(code: str, *details: str) -> None:
    subprocess.run(
        [sys.executable, "-c", code, *details],
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def straightforward(photos: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in photos:
        with Image.open(path) as image:
            image.load()
            dict(image.getexif())
            for side in (2048, 1024):
                scale = side / max(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                reduced = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
                reduced.save(folder / f"{path.stem}_{side}.jpg", quality=95, subsampling="4:4:4")


def in_process(photos: Sequence[Path], folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=straightforward, args=(photos, folder))
    process.start()
    process.join()


def report_ingest(report: Report, folder: Path, photos: int, rounds: int) -> None:
    paths = write_photos(folder / "photos", photos, SIDE)
    seconds: dict[str, list[float]] = {"straightforward": [], "first": [], "again": []}
    start = cpu_seconds(lambda: run("import curation_features.ingest.folder"))
    start_of_script = cpu_seconds(lambda: in_process((), folder / "copies"))
    for number in range(rounds):
        project = folder / f"project-{number}"
        project.mkdir()
        for name, action in (
            ("straightforward", lambda project=project: in_process(paths, project / "copies")),
            ("first", lambda project=project: run(INGEST, str(project), str(folder / "photos"))),
            ("again", lambda project=project: run(INGEST, str(project), str(folder / "photos"))),
        ):
            seconds[name].append(cpu_seconds(action) - (start_of_script if name == "straightforward" else start))
        shutil.rmtree(project)
    for name, taken in seconds.items():
        ratio = median_ratio(seconds["straightforward"], taken)
        report.add(
            f"ingest, {name}" if name != "straightforward" else name,
            **{"CPU s per photo": median(taken) / photos, "times as fast": ratio},
        )


def report_pass(report: Report, folder: Path, photos: int, rounds: int) -> None:
    """A first pass with stand-in models: decode, and the metrics of the CPU."""
    write_photos(folder / "small", photos)
    names = count()

    def measure(way: str) -> None:
        run(PASS, str(folder), str(folder / "small"), f"data-{next(names)}", way)

    ways = {way: partial(measure, way) for way in ("threads", "processes")}
    taken = interleaved(ways, rounds)
    for way in ways:
        ratio = median_ratio(taken[way], taken["threads"])
        report.add(f"pass over 1024 px, {way}", **{"s per photo": median(taken[way]) / photos, "of threads": ratio})


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--photos", type=int, default=8, help="photos of 24 megapixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = Report(f"ingest of {options.photos} photos")
        report_ingest(report, Path(name), options.photos, options.rounds)
        report_pass(report, Path(name), 25 * options.photos, options.rounds)
    report.show(options.json)


if __name__ == "__main__":
    main()

"""Measure a look at watched folders with 200,000 known photos, in folders of 500 and in a single one.

The photos are files of one byte: a look opens none. The clock of the looks is moved, not waited for.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser
from contextlib import closing
from pathlib import Path

from curation_features.settings import Settings
from curation_features.watching import Watch

HOUR = 3600.0
LOOKS = {  # name -> seconds since the look before
    "the photos are new": 0.0,
    "they were new within the last hour": 30.0,
    "every photo is due for its check": 1.1 * HOUR,
    "nothing is new": 30.0,
    "one is new": 30.0,
    "one was new within the last hour": 30.0,
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=200_000, metavar="N")
    photos = parser.parse_args().photos
    for size in (500, photos):
        print(f"{photos:,} photos in folders of {size:,}")
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), photos, size)


def measure(root: Path, photos: int, size: int) -> None:
    """Print the CPU seconds of each look."""
    for number in range(photos):
        path = root / "card" / f"{number // size:05}" / f"IMG_{number:06}.JPG"
        if number % size == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    settings = Settings(root=root, watch_folders=("card",), watch_settle_seconds=0)
    with closing(Watch(settings)) as watch:
        now = time.time()
        for label, pause in LOOKS.items():
            if label == "one is new":
                (root / "card" / "00000" / "NEW.JPG").write_bytes(b"x")
            now += pause
            start = time.process_time()
            looked = watch.look(now=now, seconds=600.0)
            seconds = time.process_time() - start
            print(f"  {label:40} {seconds:8.3f} CPU s, {len(looked.planned)} batches planned")
    journal = root / "data" / "watch" / "journal.sqlite"
    print(f"  the journal: {journal.stat().st_size / photos:.0f} bytes a photo")


if __name__ == "__main__":
    main()

"""`python -m tests.support.corpus OUT`: makes the graded corpus, or what is missing of it."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from .build import build_corpus, build_transitions
from .transitions import HALVES

SHARED_FOOTAGE = Path(__file__).resolve().parents[4] / "shared" / "data" / "videos"


def footage_folder(given: str | None) -> Path | None:
    """The folder given, else the one of CVX_FOOTAGE, else the shared one where it is there, else none."""
    chosen = given or os.environ.get("CVX_FOOTAGE")
    if chosen is not None:
        return Path(chosen)
    return SHARED_FOOTAGE if SHARED_FOOTAGE.is_dir() else None


def main() -> None:
    """Build and say what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.corpus", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--footage", help="folder with films of known shots; 'none': only the sample packages'")
    parser.add_argument("--transitions", choices=HALVES, help="films that dissolve, from this half of the footage")
    parser.add_argument("--kinds", nargs="+", default=(), help="only films with these defects, --files of each")
    parser.add_argument("--quick", action="store_true", help="shorter and smaller films")
    options = parser.parse_args()
    footage = None if options.footage == "none" else footage_folder(options.footage)
    if options.transitions is not None:
        films = build_transitions(options.out, options.transitions, footage, files=options.files, seed=options.seed)
    else:
        chosen = {"files": options.files, "seed": options.seed, "kinds": options.kinds}
        films = build_corpus(options.out, footage=footage, quick=options.quick, **chosen)
    seconds = sum(film.num_frames / film.recording.fps for film in films)
    print(
        f"{len(films)} films, {seconds / 60:.1f} minutes, built in {time.process_time():.0f} CPU seconds: {options.out}"
    )


if __name__ == "__main__":
    main()

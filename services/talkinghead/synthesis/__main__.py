"""Make a persona package in one command:

    python -m services.talkinghead.synthesis --out visavis/personas/theo

Every stage keeps its results in the work folder, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from services.talkinghead.synthesis.head import Head
from services.talkinghead.synthesis.identity import THEO, make_identity
from services.talkinghead.synthesis.look import Appearance, Look
from services.talkinghead.synthesis.package import write_package
from services.talkinghead.synthesis.portrait import Quality, render_all
from services.talkinghead.synthesis.theo import PERSONA

logger = logging.getLogger(__name__)


def main() -> None:
    """Identity -> pictures -> package."""
    parser = argparse.ArgumentParser(prog="python -m services.talkinghead.synthesis")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="where the package goes")
    add("--work", type=Path, default=Path("persona-work"), help="kept between runs")
    add("--size", type=int, default=768, help="pixels rendered per side; a multiple of 3")
    add("--samples", type=int, default=14, help="light paths per pixel of the crops")
    add("--still-samples", type=int, default=48, help="the same for the still")
    add("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    identity_path = arguments.work / "identity.npz"
    if not identity_path.exists():
        logger.info("making the identity (about a minute)")
        make_identity(THEO, identity_path)
    appearance = Appearance(Head(identity_path), Look())
    quality = Quality(arguments.size, arguments.still_samples, arguments.samples)
    logger.info("rendering; progress is in %s", arguments.work / "blender.log")
    render_all(appearance, quality, arguments.work, arguments.threads)
    logger.info("animating and packing")
    write_package(appearance.head, arguments.work, arguments.size, dict(PERSONA), arguments.out)
    logger.info("done: %s", arguments.out)


if __name__ == "__main__":
    main()

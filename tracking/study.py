"""What a study shows: its tables, figures and report, which are artifacts of one mirrored run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracking.snapshots import digest

STUDY = "study"
"""The name of the run."""
MANIFEST = "manifest.json"
"""The artifact that lists the others with their digests, sent last."""
PATTERNS = (
    *(f"tables/*.{kind}" for kind in ("csv", "json", "tex")),
    *(f"figures/*.{kind}" for kind in ("pdf", "png", "svg")),
    "report.html",
)


@dataclass(frozen=True)
class Exhibits:
    """The tables, figures and report of a study as they are now."""

    study: Path
    scale: str
    digests: dict[str, str]
    """By path within the study."""

    @classmethod
    def read(cls, study: Path, scale: str) -> Exhibits:
        """Find them and take their digests."""
        found = sorted(path for pattern in PATTERNS for path in study.glob(pattern))
        return cls(
            study,
            scale,
            {path.relative_to(study).as_posix(): digest(path.read_bytes()) for path in found},
        )

    @property
    def key(self) -> str:
        """What the mirrored run is found by."""
        return f"{self.scale}/{STUDY}"

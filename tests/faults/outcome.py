"""What a fault did: how often it was tried, how often it was survived, and what was lost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """One line of the table.

    Attributes:
        fault: what was done, in words.
        promise: what surviving means.
        lost: what was lost, one entry a loss; nothing is the aim.
    """

    fault: str
    promise: str
    tried: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)

    def note(self, survived: bool, lost: str = "") -> None:
        """Count one trial; where it was not survived, `lost` says what is gone."""
        self.tried += 1
        self.survived += survived
        if not survived:
            self.lost.append(lost or "not what was promised")

    def row(self) -> list[str]:
        return [self.fault, self.promise, str(self.tried), str(self.survived), "; ".join(self.lost) or "nothing"]

"""`make faults`: every fault on the real thing, one after the other, and what became of each."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults import damage, kills, pipeline, surroundings
from tests.faults.outcome import Outcome

FAULTS = (
    kills.sigkill_at_random_moments,
    kills.sigkill_while_a_checkpoint_is_written,
    kills.sigkill_while_the_record_is_made,
    kills.sigterm,
    kills.two_at_once,
    pipeline.sigkill_of_snakemake,
    pipeline.slurm_requeue,
    pipeline.slurm_preemption,
    pipeline.slurm_time_limit,
    surroundings.disk_full,
    surroundings.wandb_goes_away,
    surroundings.nan,
    surroundings.clock_jumps_back,
    damage.damaged_checkpoint,
    damage.malicious_checkpoint,
    damage.damaged_weights,
    damage.damaged_array,
    damage.damaged_record,
)
TABLE = Path(__file__).with_name("README.md")
HEADER = ("Fault", "Promise", "Tried", "Survived", "Lost")


def tried(fault) -> Outcome:
    """A fault's outcome; where the trial itself breaks, that is a loss."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        try:
            return fault(Path(place))
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(fault.__name__.replace("_", " "), "–")
            outcome.note(False, f"the trial broke: {type(error).__name__}")
            return outcome


def text_of(outcomes: list[Outcome]) -> str:
    """The table and its last line, in markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(outcome.row() for outcome in outcomes)]
    lines = ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    counts = [sum(values) for values in zip(*((o.tried, o.survived, len(o.lost)) for o in outcomes), strict=True)]
    return "\n".join(lines) + "\n\n{} tried, {} survived, {} lost\n".format(*counts)


def main() -> int:
    """Run all faults, or those whose names hold the words given; all of them renew the table in README.md."""
    chosen = [fault for fault in FAULTS if not sys.argv[1:] or any(word in fault.__name__ for word in sys.argv[1:])]
    outcomes, start = [], time.monotonic()
    for number, fault in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {fault.__name__} …", file=sys.stderr, flush=True)
        outcomes.append(tried(fault))
    if len(chosen) == len(FAULTS):
        TABLE.write_text(
            "# Faults\n\nBuilt by `make faults`, which does all of this to the real thing: trainer, Snakemake, SLURM,\n"
            f"a full disk. Every line is a promise and how often it was kept.\n\n{text_of(outcomes)}"
        )
    print(f"{text_of(outcomes)[:-1]}")
    print(f"({time.monotonic() - start:.0f} s)", file=sys.stderr)
    return 1 if any(outcome.lost for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Under SLURM a run that was asked to stop puts its job back into the queue, using up no retry."""


def requeue_if_asked() -> None:
    """Nothing outside SLURM."""

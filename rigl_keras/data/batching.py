"""What a batch may be: checks that sets in memory and streamed ones share."""

from numbers import Integral


def is_int(value, least):
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, Integral) and value >= least


def check_batch_size(batch_size, n):
    """Raises ValueError unless a batch holds 1 ... n examples."""
    if not is_int(batch_size, 1) or batch_size > n:
        raise ValueError(f"batch_size must be an int in 1 ... {n}, got {batch_size!r}.")


def check_steps(start_step, total_steps):
    """Raises ValueError unless steps start_step ... total_steps - 1 exist."""
    if not is_int(start_step, 0) or not is_int(total_steps, start_step):
        raise ValueError(
            "Steps must be ints with 0 <= start_step <= total_steps, got "
            f"start_step={start_step!r}, total_steps={total_steps!r}."
        )


def check_records(start, stop, n):
    """Raises ValueError unless some of the records start ... stop - 1 exist."""
    if not is_int(start, 0) or not is_int(stop, 1) or min(stop, n) <= start:
        raise ValueError(
            f"Records {start!r} ... {stop!r} - 1 of a set of {n} records: pass ints "
            f"with 0 <= start < min(stop, {n})."
        )


def share(batch_size, worker, workers):
    """How many examples of a batch each of several workers has.

    Args:
      batch_size: int >= 1, of all workers together.
      worker: int in 0 ... workers - 1.
      workers: int >= 1.

    Raises:
      ValueError: if there is no such worker, or the batch cannot be shared evenly.
    """
    if not is_int(workers, 1) or not is_int(worker, 0) or worker >= workers:
        raise ValueError(
            f"Expected a worker in 0 ... workers - 1, got {worker!r} of {workers!r}."
        )
    if batch_size % workers:
        raise ValueError(
            f"A batch of {batch_size} examples cannot be shared by {workers} workers: "
            "use a multiple of their number."
        )
    return batch_size // workers

"""With what status a process ends: the same for every command.

The numbers are those of sysexits.h where it has one.
"""

import signal

DONE = 0
# The command line, the configuration, the data or the workdir does not fit.
USAGE_ERROR = 64
# Bad data, or a loss or gradient that is not finite.
DATA_ERROR = 65
# No progress: a host hangs, and all stacks are in the log.
HANG = 70
# A checkpoint could not be written, or none of those there is good.
CHECKPOINT_ERROR = 74
# Preempted, or another process was lost: the same command goes on.
START_AGAIN = 75
# A device computes wrong numbers.
HARDWARE_SUSPECT = 76

# Another attempt would only repeat these, or should not be made on the machine.
FINAL = (USAGE_ERROR, DATA_ERROR, HARDWARE_SUSPECT)


def exit_status(error: BaseException) -> int | None:
  """The status of an error that a run ends with by design; None: no such."""
  # Imported here: a typo on the command line should not wait for JAX.
  from train.checkpoint import DamagedError, SaveError
  from train.loop import NonFiniteError
  from train.signals import Interrupted

  if isinstance(error, NonFiniteError):
    return DATA_ERROR
  if isinstance(error, DamagedError | SaveError):
    return CHECKPOINT_ERROR
  if isinstance(error, Interrupted):
    # Whoever presses Ctrl-C does not want the run to start again.
    by_hand = error.signum == signal.SIGINT
    return 128 + signal.SIGINT if by_hand else START_AGAIN
  return None

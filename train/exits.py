"""With what status a process ends: the same for every command.

The numbers are those of sysexits.h where it has one.
"""

import signal

DONE = 0
# The command line, the configuration, the data or the workdir does not fit.
USAGE_ERROR = 64
# Bad data, a loss or gradient that is not finite, or a run that diverged.
DATA_ERROR = 65
# No progress: a host hangs, and all stacks are in the log.
HANG = 70
# A checkpoint could not be written, or none of those there is good.
CHECKPOINT_ERROR = 74
# Preempted, or another process was lost: the same command goes on.
START_AGAIN = 75
# A device computes wrong numbers.
HARDWARE_SUSPECT = 76
# Ctrl-C: whoever presses it does not want the run to start again.
BY_HAND = 128 + signal.SIGINT

# Another attempt would only repeat these, or should not be made on the machine.
FINAL = (USAGE_ERROR, DATA_ERROR, HARDWARE_SUSPECT)


def interrupted_status(signum: int) -> int:
  """The status of a run that a signal ended."""
  return BY_HAND if signum == signal.SIGINT else START_AGAIN


def exit_status(error: BaseException) -> int | None:
  """The status of an error that a run ends with by design; None: no such."""
  from input_pipeline.errors import DataError

  if isinstance(error, DataError):
    return DATA_ERROR
  if isinstance(error, ValueError):
    return USAGE_ERROR
  # Imported here: a typo on the command line should not wait for JAX.
  from train.bad_steps import BadNumbersError
  from train.checkpoint_info import DamagedError, SaveError
  from train.device_check import SuspectDeviceError
  from train.distributed import is_lost_peer
  from train.signals import Interrupted

  if isinstance(error, BadNumbersError):
    return DATA_ERROR
  if isinstance(error, DamagedError | SaveError):
    return CHECKPOINT_ERROR
  if isinstance(error, SuspectDeviceError):
    return HARDWARE_SUSPECT
  if isinstance(error, Interrupted):
    return interrupted_status(error.signum)
  if is_lost_peer(error):
    return START_AGAIN
  return None

"""With what status a process ends: the same for every command.

The numbers are those of sysexits.h where it has one.
"""

DONE = 0
# The command line, the configuration or the data does not fit.
USAGE_ERROR = 2
# Loss or gradient not finite.
DATA_ERROR = 65
# A checkpoint could not be written, or none of those there is good.
CHECKPOINT_ERROR = 74


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
    return 128 + error.signum
  return None

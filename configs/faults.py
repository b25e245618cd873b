"""Fields of what a run does about faults; a part of configs/base.py."""

from ml_collections import ConfigDict, config_dict


def get_checkpoint() -> ConfigDict:
  """Saved states. An evaluation with a new best metric is saved as well."""
  checkpoint = ConfigDict()
  # Steps between checkpoints; the last step is always saved.
  checkpoint.every = 500
  # Minutes from one to the next at most, beside that; None: steps only.
  checkpoint.minutes = config_dict.placeholder(float)
  # Keep this many of the newest, beside the best.
  checkpoint.keep_last = 2
  # When a save fails (disk full, no permission): 'stop', or 'continue' with the
  # older checkpoints, and try again at the next. The last one of a run must
  # succeed in either case.
  checkpoint.on_failure = 'stop'
  return checkpoint


def get_bad_steps() -> ConfigDict:
  """Steps whose loss or gradient is not finite, or stands out."""
  bad_steps = ConfigDict()
  # 'skip' the update; 'roll_back' to a checkpoint and leave batches out;
  # 'stop'. In each case the bad update is not made.
  bad_steps.action = 'skip'
  # A finite step is bad if loss or gradient norm lies above the median of the
  # last 128 good steps by more than this many standard deviations, which are
  # told from the median deviation; 6 to 10 are usual. None: only what is not
  # finite is bad.
  bad_steps.limit = config_dict.placeholder(float)
  # With 'skip': the run stops at this many bad steps in a row.
  bad_steps.stop_after = 3
  # With 'roll_back': this many batches are left out, the bad one the last.
  bad_steps.left_out = 100
  # With 'roll_back': the run stops at the bad step after this many.
  bad_steps.max_rollbacks = 3
  return bad_steps


def get_watchdog() -> ConfigDict:
  """A run that makes no progress ends, with all stacks in the log."""
  watchdog = ConfigDict()
  # From one step, batch of an evaluation or save to the next, at most; None:
  # wait for ever.
  watchdog.minutes = 15.0
  # From the prepared data to the first step, at most: compiling takes long.
  watchdog.startup_minutes = 120.0
  return watchdog


def get_device_check() -> ConfigDict:
  """Devices that compute wrong numbers without a word."""
  device_check = ConfigDict()
  # Steps from one check to the next; one is made before each save as well.
  # Copies of the state on several devices are compared, and the gradients of a
  # batch are computed twice. None: no checks.
  device_check.every = config_dict.placeholder(int)
  return device_check

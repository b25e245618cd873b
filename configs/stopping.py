"""Fields of what ends a run before its last step; a part of configs/base.py."""

from ml_collections import ConfigDict, config_dict


def get_early_stopping() -> ConfigDict:
  """Rules that end a run, each off by default; docs/training.md has a table.

  Whichever ends it, the best checkpoint is kept.
  """
  early_stopping = ConfigDict()
  # Metric that decides about stopping and about the best checkpoint; lower is
  # better: 'loss', 'perplexity' or 'bits_per_byte'.
  early_stopping.metric = 'loss'
  # An improvement is a fall by more than this.
  early_stopping.min_delta = 0.0
  # Plateau: this many evaluations in a row without improvement end the run. At
  # a constant rate (schedules 'wsd' and 'constant') they begin its cool-down
  # instead, optimizer.decay_steps long, and the run ends with that.
  early_stopping.enabled = False
  early_stopping.patience = 3
  # Target: the run ends once the metric is this low; None: off.
  early_stopping.target = config_dict.placeholder(float)
  # Budget: the run ends at the step that reaches this many tokens or hours, in
  # all its processes together without the time between them; None: no limit.
  early_stopping.max_tokens = config_dict.placeholder(int)
  early_stopping.max_hours = config_dict.placeholder(float)
  # Divergence: the run fails where its validation loss, or its training loss
  # from one evaluation to the next, lies above its lowest by more than this
  # many nats a token; None: off. It has to do so in this many evaluations in a
  # row. (Single steps are the matter of bad_steps.)
  early_stopping.divergence = config_dict.placeholder(float)
  early_stopping.divergence_patience = 2
  # Overfitting: the run ends after this many evaluations in a row with a metric
  # above the best, by more than min_delta, though the training loss is below
  # what it was then; None: off.
  early_stopping.overfitting = config_dict.placeholder(int)
  return early_stopping

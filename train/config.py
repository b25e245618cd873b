"""The training room's configuration, checked before any device is touched."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig, model_config
from model.params import KINDS
from train.parametrization import RULES, parametrization_of

ON_FAILURE = ('stop', 'continue')
ON_BAD_STEP = ('skip', 'roll_back', 'stop')
METRICS = ('loss', 'perplexity', 'bits_per_byte')

# Axes of the mesh, from the slowest network to the fastest.
MESH_AXES = ('stage', 'data', 'fsdp', 'expert', 'context', 'tensor')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
  """Fields of `loss` in configs/base.py."""

  z_loss: float
  chunk: int

  def __post_init__(self):
    _check_range('loss.z_loss', self.z_loss, 0, math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """Fields of `optimizer` in configs/base.py, and the run's `steps`."""

  name: str
  learning_rate: float
  schedule: str
  warmup_steps: int
  decay_steps: int
  final_fraction: float
  weight_decay: float
  decay_kinds: tuple[str, ...]
  shard_axes: tuple[str, ...]
  b1: float
  b2: float
  epsilon: float
  momentum: float
  embedding_rate: float
  head_rate: float
  hyperball: bool
  clip_norm: float | None
  ema_decay: float | None
  steps: int

  def __post_init__(self):
    for kind in self.decay_kinds:
      check_choice('optimizer.decay_kinds', kind, KINDS)
    for axis in self.shard_axes:
      check_choice('optimizer.shard_axes', axis, MESH_AXES)
    _check_range('optimizer.learning_rate', self.learning_rate, 0, math.inf)
    _check_range('optimizer.weight_decay', self.weight_decay, 0, math.inf)
    _check_range('optimizer.final_fraction', self.final_fraction, 0, 1)
    _check_range('optimizer.epsilon', self.epsilon, 0, math.inf)
    for name in ('embedding_rate', 'head_rate'):
      _check_range(f'optimizer.{name}', getattr(self, name), 0, math.inf)
    for name in ('b1', 'b2', 'momentum', 'ema_decay'):
      value = getattr(self, name)
      if value is not None:
        _check_range(f'optimizer.{name}', value, 0, 1)
    _check_above_0('optimizer.clip_norm', self.clip_norm)
    decay = self.decay_steps if self.schedule == 'wsd' else 0
    _check_range('optimizer.decay_steps', self.decay_steps, 0, math.inf)
    if self.warmup_steps < 0 or (self.warmup_steps + decay > self.steps):
      raise ValueError(
        f'optimizer.warmup_steps = {self.warmup_steps}'
        + (f' + optimizer.decay_steps = {decay}' if decay else '')
        + f' must lie between 0 and steps = {self.steps}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Fields of `mesh` in configs/base.py.

  Attributes:
    sizes: of each of MESH_AXES within a slice.
    dcn: slices along each of MESH_AXES.
    rules: logical axes and the mesh axes that split them.
  """

  sizes: tuple[int, ...]
  dcn: tuple[int, ...]
  rules: tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
  """Fields of `early_stopping` in configs/stopping.py."""

  metric: str
  min_delta: float
  enabled: bool
  patience: int
  target: float | None
  max_tokens: int | None
  max_hours: float | None
  divergence: float | None
  divergence_patience: int
  overfitting: int | None

  def __post_init__(self):
    check_choice('early_stopping.metric', self.metric, METRICS)
    _check_range('early_stopping.min_delta', self.min_delta, 0, math.inf)
    for name in ('patience', 'divergence_patience', 'overfitting'):
      value = getattr(self, name)
      if value is not None:
        _check_positive(f'early_stopping.{name}', value)
    for name in ('target', 'max_tokens', 'max_hours', 'divergence'):
      _check_above_0(f'early_stopping.{name}', getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadStepsConfig:
  """Fields of `bad_steps` in configs/faults.py."""

  action: str
  limit: float | None
  stop_after: int
  left_out: int
  max_rollbacks: int

  def __post_init__(self):
    check_choice('bad_steps.action', self.action, ON_BAD_STEP)
    _check_above_0('bad_steps.limit', self.limit)
    for name in ('stop_after', 'left_out', 'max_rollbacks'):
      _check_positive(f'bad_steps.{name}', getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
  """Fields of `watchdog` in configs/faults.py."""

  minutes: float | None
  startup_minutes: float | None

  def __post_init__(self):
    for name in ('minutes', 'startup_minutes'):
      _check_above_0(f'watchdog.{name}', getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """All that a training run needs beside its data; fields of configs/base.py.

  Fields of small sections stand here with the section's name in front.
  """

  seed: int
  steps: int
  batch_size: int
  accumulation_steps: int
  sequence_length: int
  isolate_documents: bool
  model: ModelConfig
  loss: LossConfig
  optimizer: OptimizerConfig
  mesh: MeshConfig
  offload_parameters: bool
  offload_optimizer: bool
  early_stopping: EarlyStoppingConfig
  bad_steps: BadStepsConfig
  watchdog: WatchdogConfig
  device_check_every: int | None
  evaluation_every: int
  evaluation_batch_size: int
  checkpoint_every: int
  checkpoint_minutes: float | None
  checkpoint_keep_last: int
  checkpoint_on_failure: str
  log_every: int
  log_tensorboard: bool
  log_profile_start: int | None
  log_profile_steps: int
  prefetch: int

  def __post_init__(self):
    for name in (
      'steps', 'batch_size', 'accumulation_steps', 'sequence_length',
    ):  # fmt: skip
      _check_positive(name, getattr(self, name))
    # A key of JAX takes 32 bits, and reads a greater seed as a smaller one.
    _check_range('seed', self.seed, 0, (1 << 32) - 1)
    for section in ('evaluation', 'checkpoint', 'log'):
      _check_positive(f'{section}.every', getattr(self, f'{section}_every'))
    _check_positive('checkpoint.keep_last', self.checkpoint_keep_last)
    check_choice(
      'checkpoint.on_failure', self.checkpoint_on_failure, ON_FAILURE
    )
    _check_above_0('checkpoint.minutes', self.checkpoint_minutes)
    if self.device_check_every is not None:
      _check_positive('device_check.every', self.device_check_every)
    self._check_profile()
    self._check_parametrization()
    _check_positive('evaluation.batch_size', self.evaluation_batch_size)
    _check_divides(
      'batch_size',
      self.batch_size,
      'accumulation_steps',
      self.accumulation_steps,
    )
    _check_positive('loss.chunk', self.loss.chunk)
    _check_divides(
      'sequence_length', self.sequence_length, 'loss.chunk', self.loss.chunk
    )

  def _check_parametrization(self) -> None:
    model, optimizer = self.model, self.optimizer
    check_choice('model.parametrization', model.parametrization, tuple(RULES))
    wanted = RULES[model.parametrization].optimizer
    if wanted not in (None, optimizer.name):
      raise ValueError(
        f'model.parametrization = {model.parametrization!r} has rules for '
        f'optimizer.name = {wanted!r}, which is {optimizer.name!r}: set one of '
        'the two.'
      )
    head = parametrization_of(model).factors('head', ('vocab', 'embed'))
    if model.tie_embeddings and head.init == 0:
      raise ValueError(
        f'model.parametrization = {model.parametrization!r} starts the output '
        'head at zero, and model.tie_embeddings = True makes it the embedding: '
        'set model.tie_embeddings = False.'
      )
    if model.tie_embeddings and optimizer.head_rate != 1:
      raise ValueError(
        f'optimizer.head_rate is {optimizer.head_rate}, and '
        'model.tie_embeddings = True leaves no head of its own: set '
        'optimizer.embedding_rate, or model.tie_embeddings = False.'
      )

  def _check_profile(self) -> None:
    start, steps = self.log_profile_start, self.log_profile_steps
    _check_positive('log.profile_steps', steps)
    if start is None:
      return
    _check_positive('log.profile_start', start)
    if start + steps - 1 > self.steps:
      raise ValueError(
        f'log.profile_start = {start} and log.profile_steps = {steps} ask for '
        f'a profile of steps {start} to {start + steps - 1}, but the last step '
        f'is steps = {self.steps}.'
      )


def train_config(config: Mapping[str, Any]) -> TrainConfig:
  """Reads the training part of a run's configuration.

  Args:
    config: the whole configuration, as `configs.base.get_config` makes it.

  Raises:
    ValueError: a value is out of range or two do not fit together.
  """
  _check_positive('sequence_length', config['sequence_length'])
  mesh = config['mesh']
  optimizer = dict(config['optimizer'])
  for name in ('decay_kinds', 'shard_axes'):
    optimizer[name] = tuple(optimizer[name])
  evaluation_batch = config['evaluation']['batch_size']
  if evaluation_batch is None:
    _check_positive('accumulation_steps', config['accumulation_steps'])
    evaluation_batch = config['batch_size'] // config['accumulation_steps']
  return TrainConfig(
    seed=config['seed'],
    steps=config['steps'],
    batch_size=config['batch_size'],
    accumulation_steps=config['accumulation_steps'],
    sequence_length=config['sequence_length'],
    isolate_documents=config['isolate_documents'],
    model=model_config(config),
    loss=LossConfig(**dict(config['loss'])),
    optimizer=OptimizerConfig(**optimizer, steps=config['steps']),
    mesh=MeshConfig(
      sizes=tuple(mesh[axis] for axis in MESH_AXES),
      dcn=tuple(mesh['dcn'][axis] for axis in MESH_AXES),
      rules=tuple((k, tuple(v)) for k, v in mesh['rules'].items()),
    ),
    offload_parameters=config['offload']['parameters'],
    offload_optimizer=config['offload']['optimizer'],
    early_stopping=EarlyStoppingConfig(**dict(config['early_stopping'])),
    bad_steps=BadStepsConfig(**dict(config['bad_steps'])),
    watchdog=WatchdogConfig(**dict(config['watchdog'])),
    device_check_every=config['device_check']['every'],
    evaluation_every=config['evaluation']['every'],
    evaluation_batch_size=evaluation_batch,
    **{f'checkpoint_{k}': v for k, v in config['checkpoint'].items()},
    log_every=config['log']['every'],
    log_tensorboard=config['log']['tensorboard'],
    log_profile_start=config['log']['profile_start'],
    log_profile_steps=config['log']['profile_steps'],
    prefetch=config['data']['prefetch'],
  )


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a field has one of its possible values."""
  if value not in choices:
    raise ValueError(f'{field} is {value!r}; choose one of {choices}.')


def _check_positive(field: str, value: int) -> None:
  if value < 1:
    raise ValueError(f'{field} is {value}; it must be at least 1.')


def _check_above_0(field: str, value: float | None) -> None:
  if value is not None and not 0 < value < math.inf:
    raise ValueError(
      f'{field} is {value}; it must be above 0, or None to switch it off.'
    )


def _check_range(field: str, value: float, low: float, high: float) -> None:
  if not (low <= value <= high and math.isfinite(value)):
    raise ValueError(f'{field} is {value}; it must lie in {low} to {high}.')


def _check_divides(field: str, value: int, by: str, divisor: int) -> None:
  if value % divisor:
    raise ValueError(
      f'{field} = {value} is no multiple of {by} = {divisor} '
      f'({value} = {value // divisor} x {divisor} + {value % divisor}).'
    )

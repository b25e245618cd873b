"""What a run is, said once at its start."""

from typing import TYPE_CHECKING, Any

import jax

from model.flops import training_flops_per_token
from model.params import count
from train.chips import peak_flops
from train.config import TrainConfig
from train.console import format_count, summary_table
from train.setup import Setup
from train.workdir import package_versions

if TYPE_CHECKING:
  from input_pipeline.stores import Stores
  from input_pipeline.stream import Stream


def session_record(
  setup: Setup, stores: 'Stores', stream: 'Stream', step: int
) -> dict[str, Any]:
  """Facts about the run, the machine and the data, for the metrics."""
  config, devices = setup.config, jax.devices()
  params = jax.eval_shape(setup.recipe.init).params
  return {
    'resumed': step > 0,
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'processes': jax.process_count(),
    'mesh': dict(setup.mesh.shape),
    'parameters': count(params),
    'parameters_embedding': count(
      {k: params[k] for k in ('embedding', 'positions') if k in params}
    ),
    'tokens_per_step': config.batch_size * config.sequence_length,
    'flops_per_token': training_flops_per_token(config.model),
    'peak_flops_per_device': peak_flops(devices[0].device_kind),
    'dataset': _dataset(stores, stream, config.steps),
    'versions': package_versions(),
  }


def _dataset(stores: 'Stores', stream: 'Stream', steps: int) -> dict[str, Any]:
  train = [m.splits['train'] for m in stores.manifests]
  validation = [m.splits['validation'] for m in stores.manifests]
  tokens = sum(split.tokens for split in train)
  targets = sum(split.target_tokens for split in validation)
  facts: dict[str, Any] = {
    'fingerprint': stores.fingerprint,
    'train_rows': sum(split.rows for split in train),
    'train_tokens': tokens,
    'validation_rows': sum(split.rows for split in validation),
    # Of a model that knows each dataset's frequencies.
    'unigram_entropy': sum(
      split.unigram_entropy * (split.target_tokens / targets)
      for split in validation
    ),
    'bytes_per_token': sum(split.text_bytes for split in train) / tokens,
  }
  if stores.names[0]:
    facts['mixture'] = {
      name: {
        'weights': ', '.join(schedule.texts),
        'train_rows': split.rows,
        'train_tokens': split.tokens,
        'epochs': epochs,
      }
      for name, schedule, split, epochs in zip(
        stores.names,
        stores.schedules,
        train,
        stream.epochs(steps).tolist(),
        strict=True,
      )
    }
  return facts


def summary(config: TrainConfig, facts: dict[str, Any], step: int) -> str:
  """The table that a run opens with, from its session record."""
  data = facts['dataset']
  sizes = {name: size for name, size in facts['mesh'].items() if size > 1}
  mesh = ' x '.join(f'{name} {size}' for name, size in sizes.items())
  tokens = config.steps * facts['tokens_per_step']
  peak = facts['peak_flops_per_device']
  return summary_table(
    [
      ('devices', facts['devices'] + f', {facts["processes"]} process(es)'),
      ('mesh', mesh or 'one device'),
      (
        'parameters',
        f'{format_count(facts["parameters"])}, of which '
        f'{format_count(facts["parameters_embedding"])} embedding',
      ),
      (
        'batch',
        f'{config.batch_size} rows x {config.sequence_length} = '
        f'{format_count(facts["tokens_per_step"])} tokens a step',
      ),
      (
        'compute',
        f'{format_count(facts["flops_per_token"])} FLOPs a token'
        + (f', peak {format_count(peak)} FLOP/s a device' if peak else ''),
      ),
      (
        'data',
        f'{format_count(data["train_rows"])} rows, '
        f'{format_count(data["train_tokens"])} tokens, '
        f'{data["bytes_per_token"]:.2f} bytes a token, '
        f'{data["fingerprint"][:12]}',
      ),
      (
        'run',
        f'steps {step} to {config.steps}, '
        f'{format_count(tokens)} tokens, '
        f'{tokens / data["train_tokens"]:.2f} epochs',
      ),
      *(
        (
          name,
          f'weight {part["weights"]}, {format_count(part["train_rows"])} rows, '
          f'{part["epochs"]:.2f} epochs by step {config.steps}',
        )
        for name, part in data.get('mixture', {}).items()
      ),
    ]
  )

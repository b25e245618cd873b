"""A plateau at a constant rate begins the decay, in a run and in a population.

The runs are those of this process.
"""

import dataclasses
import shutil
import time
from types import SimpleNamespace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_configs import write_corpus
from etils import epath

import train.loop
from configs.check import to_dict
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.config import training_data
from train.bad_steps import BadNumbersError, new_history
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info
from train.config import train_config
from train.early_stopping import Seen, judge
from train.metrics import read_metrics
from train.report import write_report
from train.run import Run
from train.state import TrainState
from train.step_folders import StepFolders

# Evaluations at 4 (the first), 8, 12: no improvement is large enough.
BEGIN, DECAY, STEPS = 12, 6, 40
FIELDS = {
  'steps': STEPS,
  'batch_size': 8,
  'sequence_length': 16,
  'loss.chunk': 16,
  'model.vocab_size': 384,
  # What is quick to compile.
  'model.num_layers': 1,
  'model.scan_layers': False,
  'model.positions': 'learned',
  'model.mlp': 'gelu',
  'optimizer.name': 'sgd',
  'mesh.data': -1,
  'evaluation.every': 4,
  'checkpoint.every': 15,
  'checkpoint.keep_last': 9,
  'log.every': 1,
  'log.tensorboard': False,
  'optimizer.schedule': 'wsd',
  'optimizer.decay_steps': DECAY,
  'optimizer.final_fraction': 0.0,
  'data.source': 'text',
  'data.validation_fraction': 0.25,
  'data.tokenizer.kind': 'bytes',
  'data.workers': 1,
  'early_stopping.enabled': True,
  'early_stopping.patience': 2,
  'early_stopping.min_delta': 100.0,
}


@pytest.fixture(scope='module', autouse=True)
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.devices()[:1]
    patch.setattr(jax, 'devices', lambda: devices)
    patch.setattr(jax, 'device_count', lambda: 1)
    patch.setattr(jax, 'local_devices', lambda: devices)
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cool_down')
  write_corpus(folder, documents=40)
  return folder


def run(folder, name, **fields):
  """Trains in a folder, and returns the state that the run ends with."""
  config = cases.tiny_config(**FIELDS | fields)
  config.data.directory = str(folder / 'stores')
  config.data.files = (f'{folder}/corpus/*.txt',)
  return train.loop.train(
    train_config(config),
    training_data(config),
    augmentation_config(config),
    resolved=to_dict(config),
    workdir=epath.Path(folder / name),
    allow_change=False,
    started=time.perf_counter(),
  )


def figures(folder, name, kind, *names):
  """Loss and other numbers of the records of a kind, by step."""
  return {
    record['step']: [record[key] for key in ('loss', *names)]
    for record in read_metrics(folder / name)
    if record['kind'] == kind
  }


def events(folder, name):
  return [r for r in read_metrics(folder / name) if r['kind'] == 'event']


@pytest.fixture(scope='module')
def whole(folder):
  return run(folder, 'whole')


def test_a_plateau_begins_the_decay_and_the_run_ends_with_it(folder, whole):
  assert whole is not None
  found = figures(folder, 'whole', 'train', 'learning_rate')
  assert list(found) == list(range(1, BEGIN + DECAY + 1))
  rates = [rate for _, rate in found.values()]
  # Step n + 1 takes the rate of step n.
  left = [1.0] * (BEGIN - 1) + [1 - i / DECAY for i in range(DECAY)]
  np.testing.assert_allclose(rates[2:], 0.01 * np.array(left[1:]), rtol=1e-6)
  begins, ends = events(folder, 'whole')
  assert (begins['step'], begins['rule']) == (BEGIN, 'plateau')
  assert (ends['step'], ends['rule']) == (BEGIN + DECAY, 'plateau')
  assert 'falls from here on' in begins['message']
  page = write_report(folder / 'whole').read_text()
  assert f'Stopped early at step {BEGIN + DECAY} of {STEPS}' in page
  assert page.count(begins['message']) == 2


def test_killed_in_its_cool_down_it_goes_on_bit_for_bit(folder, whole):
  shutil.copytree(folder / 'whole', folder / 'killed')
  # The kill came between the save of step 15 and that of step 18.
  steps = StepFolders(epath.Path(folder / 'killed/checkpoints'))
  wanted = steps.fingerprints(BEGIN + DECAY)
  steps.remove(BEGIN + DECAY)
  assert steps.steps()[-1] == BEGIN + DECAY // 2
  run(folder, 'killed')
  assert steps.fingerprints(BEGIN + DECAY) == wanted
  for kind in ('train', 'evaluation'):
    assert figures(folder, 'killed', kind) == figures(folder, 'whole', kind)
  assert [e['step'] for e in events(folder, 'killed')] == [BEGIN, BEGIN + DECAY]


def test_only_where_a_plateau_may_decide_the_state_has_a_number_for_it():
  for schedule, enabled, begin in (
    ('wsd', True, 14), ('constant', True, 20), ('wsd', False, None),
    ('cosine', True, None), ('linear', True, None),
  ):  # fmt: skip
    recipe = cases.recipe(
      **{
        'optimizer.schedule': schedule,
        'optimizer.decay_steps': 6,
        'early_stopping.enabled': enabled,
      }
    )
    found = jax.eval_shape(recipe.init).decay_begin
    assert (found is None) == (begin is None), schedule
    if begin is not None:
      assert int(jax.jit(lambda r=recipe: r.init().decay_begin)()) == begin


def test_a_step_that_was_saved_before_its_evaluation_is_told_of_the_decay(
  tmp_path,
):
  state = TrainState(
    step=jnp.int32(5),
    params={'w': jnp.ones(3)},
    opt_state=(),
    ema=None,
    history=new_history(),
    decay_begin=jnp.int32(34),
  )
  info = Info(step=5, config={}, data_fingerprint='f')
  with Checkpoints(epath.Path(tmp_path / 'c'), keep_last=1) as checkpoints:
    checkpoints.save(state, info)
    checkpoints.wait()
    assert checkpoints.restore_newest(state).state.decay_begin == 34
    told = dataclasses.replace(info, seen=Seen(cooldown=5), evaluated=5)
    checkpoints.save(state, told)
    restored = checkpoints.restore_newest(state)
  assert restored.info == told
  assert restored.state.decay_begin == 5


class Hosts:
  """What hosts ask of each other; each hears the largest, one call later."""

  def __init__(self):
    self.asked, self.heard = [], [0, 0, 0]

  def ask(self, *numbers):
    self.asked.append(numbers)
    return self.heard

  def next_step(self):
    self.heard = [max(column) for column in zip(*self.asked, strict=True)]
    self.asked = []


def bare_run(hosts, seconds=0, **fields):
  """A run without steps, on a host whose clock shows some seconds."""
  config = cases.tiny_train_config(
    **{f'early_stopping.{k}': v for k, v in fields.items()}
  )
  run = Run.__new__(Run)
  run.config, run.agreement = config, hosts
  run.info = Info(step=0, config={}, data_fingerprint='f')
  run.saved_at = time.monotonic()
  run.request = SimpleNamespace(signum=None)
  run.journal = SimpleNamespace(
    seconds=lambda: seconds + run.step,
    record_event=lambda *said, **more: run.said.append((*said, more)),
  )
  run.said = []
  return run


def test_hosts_whose_clocks_differ_end_at_the_same_step():
  hosts = Hosts()
  # Alone, they would end at steps 5, 2 and never.
  clocks = (3595, 3598, 0)
  runs = [bare_run(hosts, clock, max_hours=1) for clock in clocks]
  while not runs[0].finished() and runs[0].step < 9:
    for one in runs:
      one.update(step=one.step + 1)
      one.asked()
      # The step at which they end is evaluated.
      if one.owes_evaluation():
        one.update(evaluated=one.step)
    hosts.next_step()
  assert [one.step for one in runs] == [3] * 3
  assert all(one.finished() for one in runs)
  assert len({one.info.seen for one in runs}) == 1


def test_a_run_that_diverges_fails_and_says_why():
  run = bare_run(Hosts(), divergence=1.0)
  seen = Seen(diverging=2, lowest_training=1.0, lowest_validation=2.0)
  run.update(step=7, seen=seen)
  for end in (
    lambda: run._obey(judge(seen, 7, run.config)),
    lambda: run.end(0),
  ):
    with pytest.raises(BadNumbersError, match=r'Failed at step 7 \(diverg'):
      end()
    (step, message, more) = run.said.pop()
    assert (step, more) == (7, {'rule': 'divergence'})
    assert (
      '1 nats above the lowest (training 1.0000, validation 2.0000)' in message
    )

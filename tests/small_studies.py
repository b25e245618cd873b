"""Small studies of a small model, and workers for them, in this process."""

import cases
import jax
from data_configs import prepared, text_config, write_corpus
from etils import epath

from configs.check import to_dict
from configs.search import get_search, log
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.stores import Stores
from input_pipeline.weights import ALWAYS
from train.config import train_config
from train.signals import StopRequest
from train.tuning.command import read_search
from train.tuning.size import takes_all_devices
from train.tuning.study import Study
from train.tuning.worker import Work, Worker

STEPS, EVERY = 8, 2
FIELDS = {
  'steps': STEPS,
  'batch_size': 2,
  'sequence_length': 16,
  'loss.chunk': 16,
  'model.vocab_size': 384,
  'model.num_layers': 1,
  'evaluation.every': EVERY,
  'checkpoint.every': EVERY,
  'optimizer.warmup_steps': 1,
  'optimizer.learning_rate': 0.01,
  'early_stopping.enabled': False,
}
RATE = log('optimizer.learning_rate', 1e-4, 1e-1)


def stores_in(folder):
  """Prepared data of a small corpus."""
  write_corpus(folder, documents=40)
  store = prepared(text_config(folder))
  return Stores(names=('',), schedules=(ALWAYS,), stores=(store,))


class Setting:
  """A study in a folder, and workers for it."""

  def __init__(self, folder, stores, space=(RATE,), fields=None, **search):
    asked = get_search()
    asked.update(
      {'trials': 4, 'pruner': 'none', 'sampler': 'random', 'startup': 2}
      | search
    )
    asked.space = space
    self.config = cases.tiny_config(**FIELDS | (fields or {}))
    self.search = read_search(to_dict(self.config), asked)
    self.folder, self.stores = epath.Path(folder), stores
    self.said = []

  def study(self):
    train = self.search.base
    return Study(
      self.folder,
      self.search.config,
      storage=None,
      config=train,
      data_fingerprint=self.stores.fingerprint,
      steps=train['steps'],
      warmup_steps=train['optimizer']['warmup_steps'],
      said=self.said.append,
    )

  def worker(self, request=None, population=2, devices=1):
    work = Work(
      configure=self.search.configure,
      metrics=self.search.config.metrics,
      population=population,
      trials=self.search.config.trials,
      augmentation=augmentation_config(self.config),
      stores=self.stores,
      devices=jax.devices()[:devices],
      whole_mesh=takes_all_devices(train_config(self.search.base).mesh),
    )
    return Worker(
      self.study(), work, request or StopRequest(), self.said.append
    )

  def run(self, **options):
    worker = self.worker(**options)
    worker.run()
    return worker, self.study().trials()


def curves(trials):
  return [list(t.intermediate_values.values()) for t in trials]

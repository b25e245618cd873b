"""Augmented batches of a prepared store: what hosts and resumed runs read."""

import dataclasses

import cases
import numpy as np
import pytest
from data_configs import prepared, text_config

from configs import base
from input_pipeline.augmentation.augment import make_augment
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.pipeline import train_batches
from input_pipeline.repack import RepackedRows
from input_pipeline.stream import Stream
from input_pipeline.tokenizer import load_tokenizer
from model.sampling import SamplingConfig
from train import commands

ON = {
  'repack': True,
  'token_dropout.rate': 0.1,
  'metadata_prefix.rate': 0.9,
  'metadata_prefix.cooldown': 0.25,
  'fill_in_the_middle.rate': 0.3,
  'ul2.r_rate': 0.1,
  'ul2.x_rate': 0.1,
  'ul2.s_rate': 0.1,
  'ul2.sentinels': 3,
  'target_offset.rate': 0.4,
  'right_to_left.rate': 0.4,
  'token_replacement.rate': 0.05,
  'input_masking.rate': 0.05,
}
TOKENS = (
  '<|mask|>', '<|source|>', '<|right_to_left|>', '<|fim_prefix|>',
  '<|fim_suffix|>', '<|fim_middle|>', '<|ul2_r|>', '<|ul2_x|>', '<|ul2_s|>',
  '<|offset_2|>', '<|offset_3|>', '<|offset_4|>', '<|offset_5|>',
  '<|span_0|>', '<|span_1|>', '<|span_2|>',
)  # fmt: skip
STEPS, BATCH = 12, 16


def everything_on():
  config = base.get_config()
  config.data.tokenizer.special_tokens = TOKENS
  config.augmentation.update_from_flattened_dict(ON)
  return augmentation_config(config)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  """Documents of two folders, with reserved tokens, in several shards."""
  tmp_path = tmp_path_factory.mktemp('augmented')
  for folder in ('web', 'books'):
    (tmp_path / 'corpus' / folder).mkdir(parents=True)
    for n in range(24):
      path = tmp_path / 'corpus' / folder / f'{n:02d}.txt'
      path.write_text(f'{folder} {n}: ' + 'the quick brown fox ' * (n % 9))
  config = text_config(
    tmp_path,
    files=(f'{tmp_path}/corpus/web/*.txt', f'{tmp_path}/corpus/books/*.txt'),
    sequence_length=48,
  )
  config = dataclasses.replace(
    config,
    tokenizer=dataclasses.replace(config.tokenizer, special_tokens=TOKENS),
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('input_pipeline.chunks.CHUNK_BYTES', 2_000)
    patch.setattr('input_pipeline.encode.CHUNKS_PER_SHARD', 1)
    return prepared(config)


def batches(store, *, start=0, hosts=1, host=0):
  share = BATCH // hosts
  rows = RepackedRows(
    store.rows('train'), seed=5, tokenizer=store.manifest.tokenizer
  )
  assert len(rows) < STEPS * BATCH / 2, 'several epochs are read'
  return list(
    train_batches(
      Stream([rows], seed=5, batch_size=BATCH),
      start_step=start,
      end_step=STEPS,
      row_start=host * share,
      row_stop=(host + 1) * share,
      prefetch=2,
      augment=make_augment(everything_on(), store, seed=5, steps=STEPS),
    )
  )


@pytest.fixture(scope='module')
def whole(store):
  """The batches of one host that nothing interrupted."""
  return batches(store)


def assert_equal(found, wanted):
  assert len(found) == len(wanted)
  for one, other in zip(found, wanted, strict=True):
    assert list(one) == list(other)
    for name, array_NT in other.items():
      np.testing.assert_array_equal(one[name], array_NT)


@pytest.mark.parametrize('hosts', [2, 4, 8])
def test_hosts_put_together_read_the_batch_of_one(store, whole, hosts):
  parts = [batches(store, hosts=hosts, host=host) for host in range(hosts)]
  together = [
    {name: np.concatenate([p[step][name] for p in parts]) for name in batch}
    for step, batch in enumerate(whole)
  ]
  assert_equal(together, whole)


def test_a_resumed_run_reads_what_it_would_have_read(store, whole):
  for start in (1, 5, 6, 11):
    assert_equal(batches(store, start=start), whole[start:])


def test_everything_is_on_and_documents_name_their_folder(store, whole):
  special = store.manifest.tokenizer.special_tokens
  assert list(special) == list(TOKENS)
  inputs_SNT = np.stack([batch['inputs'] for batch in whole])
  assert set(special.values()) <= set(np.unique(inputs_SNT).tolist())
  tokenizer = load_tokenizer(store.directory / 'tokenizer.json')
  rows = [row for batch_NT in inputs_SNT for row in batch_NT]
  found = set()
  for row in rows:
    for at in np.flatnonzero(row == special['<|source|>']):
      found.add(tokenizer.decode(row[at + 1 :]).split('\n\n')[0])
  assert found == {'web', 'books'}
  # The last quarter of the steps has none.
  assert not (inputs_SNT[9:] == special['<|source|>']).any()
  assert (inputs_SNT[8] == special['<|source|>']).any()


def test_a_store_without_the_tokens_is_refused(tmp_path):
  (tmp_path / 'corpus').mkdir()
  for n in range(12):
    (tmp_path / 'corpus' / f'{n}.txt').write_text(f'{n} and more')
  store = prepared(text_config(tmp_path))
  assert store.manifest.tokenizer.special_tokens == {}
  with pytest.raises(ValueError, match=r'<\|source\|>.*does not reserve'):
    make_augment(everything_on(), store, seed=0, steps=1)


def test_reserved_tokens_are_never_sampled(store, monkeypatch):
  tokenizer = load_tokenizer(store.directory / 'tokenizer.json')
  recipe = cases.recipe(**{'model.vocab_size': 384})
  given = {}

  def generate(params, prompts_BT, lengths_B, allowed_V, *rest, **options):
    given['allowed'] = allowed_V
    return np.full((1, 1), tokenizer.eos_id)

  monkeypatch.setattr(commands, 'generate', generate)
  commands.continue_prompts(
    recipe,
    None,
    tokenizer,
    prompts=['a'],
    sampling=SamplingConfig(
      max_tokens=1, temperature=1.0, top_k=None, top_p=None
    ),
    seed=0,
  )
  # Bytes, and the end of the text.
  wanted = [tokenizer.eos_id, *range(4 + len(TOKENS), 260 + len(TOKENS))]
  assert np.flatnonzero(given['allowed']).tolist() == wanted

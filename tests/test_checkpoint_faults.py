"""Faults in checkpoints: each is noticed, and nothing that is good is lost."""

import contextlib
import math
import resource
import shutil

import jax
import numpy as np
import pytest
from cases import recipe
from etils import epath

from train.checkpoint import Checkpoints
from train.checkpoint_info import DamagedError, Info, SaveError
from train.early_stopping import Best, Seen
from train.mesh import make_mesh
from train.state import abstract_state, init_state, state_shardings

# Orbax leaves tasks behind that fail unseen; what matters is told by then.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

RECIPE = recipe(**{'model.num_layers': 1, 'optimizer.name': 'sgd'})
FLIPS = 100


def states():
  """Two states of one run, and what restores them."""
  mesh = make_mesh(RECIPE.config.mesh, jax.devices()[:1])
  shardings = state_shardings(RECIPE, mesh)
  older = init_state(RECIPE, shardings)
  newer = jax.tree.map(lambda x: x + 1, older)
  return older, newer, abstract_state(RECIPE, shardings)


def info(step):
  return Info(step=step, config={}, data_fingerprint='f')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with the steps 1 and 2, and the states in them."""
  directory = tmp_path_factory.mktemp('saved') / 'c'
  older, newer, abstract = states()
  with Checkpoints(epath.Path(directory), keep_last=2) as checkpoints:
    checkpoints.save(older, info(1))
    checkpoints.save(newer, info(2))
  return directory, older, newer, abstract


@pytest.fixture
def copy(saved, tmp_path):
  """A copy of the folder, to be spoiled."""
  return shutil.copytree(saved[0], tmp_path / 'c')


def same(left, right):
  return all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  )


def files_of(step):
  return sorted(path for path in step.rglob('*') if path.is_file())


def go_on(directory, abstract):
  with Checkpoints(epath.Path(directory), keep_last=2) as checkpoints:
    return checkpoints.restore_newest(abstract)


@pytest.mark.slow
def test_a_hundred_flipped_bits_are_a_hundred_times_noticed(
  saved, tmp_path, record_property
):
  directory, older, _, abstract = saved
  generator = np.random.default_rng(0)
  # What is read; each process leaves its part beside it.
  data = files_of(directory / '2' / 'state' / 'd')
  assert data
  for number in range(FLIPS):
    copy = shutil.copytree(directory, tmp_path / str(number) / 'c')
    # A large file is hit as often as its size says.
    sizes = [f.stat().st_size for f in data]
    path = data[generator.choice(len(data), p=np.array(sizes) / sum(sizes))]
    spoiled = copy / path.relative_to(directory)
    content = bytearray(spoiled.read_bytes())
    content[generator.integers(len(content))] ^= 1 << generator.integers(8)
    spoiled.write_bytes(content)
    restored = go_on(copy, abstract)
    assert restored.info.step == 1
    assert same(restored.state, older)
    assert len(restored.remarks) == 1
    assert files_of(copy.parent / 'quarantine' / '2')
    shutil.rmtree(copy.parent)
  record_property('flips found', f'{FLIPS} of {FLIPS}')


def test_a_file_that_is_cut_emptied_or_gone(saved, tmp_path):
  directory, older, newer, abstract = saved
  fell_back = 0
  for number, path in enumerate(files_of(directory / '2')):
    for fault in ('cut', 'empty', 'gone'):
      copy = shutil.copytree(directory, tmp_path / f'{number}{fault}' / 'c')
      spoiled = copy / path.relative_to(directory)
      size = spoiled.stat().st_size
      if fault == 'gone':
        spoiled.unlink()
      else:
        with spoiled.open('r+b') as file:
          file.truncate(size // 2 if fault == 'cut' else 0)
      restored = go_on(copy, abstract)
      # Some files are not needed: then all is as it was saved.
      wanted = {1: older, 2: newer}[restored.info.step]
      assert same(restored.state, wanted), (path, fault)
      fell_back += restored.info.step == 1
      with Checkpoints(epath.Path(copy), keep_last=2) as checkpoints:
        assert checkpoints.newest().step == restored.info.step
  assert fell_back > 5


def spoil(step):
  for path in files_of(step):
    if path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[:-10])


def test_where_none_is_good_nothing_is_moved(saved, copy):
  abstract = saved[3]
  for step in ('1', '2'):
    spoil(copy / step)
  before = files_of(copy)
  with pytest.raises(DamagedError, match='None of the checkpoints') as error:
    go_on(copy, abstract)
  assert str(copy / '1') in str(error.value)
  assert str(copy / '2') in str(error.value)
  assert files_of(copy) == before
  # Neither is what the checkpoints say of themselves taken for nothing.
  for step in ('1', '2'):
    (copy / step / '_CHECKPOINT_METADATA').write_text('{}')
  with (
    Checkpoints(epath.Path(copy), keep_last=2) as checkpoints,
    pytest.raises(DamagedError, match='None of the checkpoints'),
  ):
    checkpoints.newest()


def test_another_model_is_no_damage(saved, copy):
  other = recipe(**{'model.num_layers': 2, 'optimizer.name': 'sgd'})
  mesh = make_mesh(other.config.mesh, jax.devices()[:1])
  abstract = abstract_state(other, state_shardings(other, mesh))
  before = files_of(copy)
  with pytest.raises(ValueError, match='another model or optimizer; nothing'):
    go_on(copy, abstract)
  assert files_of(copy) == before


def test_another_type_is_no_damage_and_is_not_cast(saved, copy):
  abstract = saved[3]
  halves = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, 'bfloat16', sharding=x.sharding),
    abstract,
  )
  with pytest.raises(ValueError, match=r'saved float32 .* wanted bfloat16'):
    go_on(copy, halves)


def test_strangers_are_left_alone(saved, copy):
  newer = saved[2]
  (copy / '999').mkdir()
  (copy / 'notes').mkdir()
  (copy / 'notes' / 'a').write_text('a')
  (copy / '12.txt').write_text('b')
  with Checkpoints(epath.Path(copy), keep_last=2) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(newer, info(3))
    checkpoints.save(newer, info(4))
  with Checkpoints(epath.Path(copy), keep_last=2) as checkpoints:
    assert checkpoints.steps() == [3, 4]
  assert (copy / '999').is_dir()
  assert (copy / 'notes' / 'a').read_text() == 'a'
  assert (copy / '12.txt').read_text() == 'b'


@contextlib.contextmanager
def full_disk(limit=1_000):
  """No file may grow beyond the limit, as on a disk that is full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_older_steps_stay(saved, copy):
  _, _, newer, abstract = saved
  with Checkpoints(epath.Path(copy), keep_last=2) as checkpoints:
    with full_disk():
      checkpoints.save(newer, info(3))
      with pytest.raises(SaveError, match=r'Step 3 .*saved: \[1, 2\]'):
        checkpoints.wait()
    assert checkpoints.newest().step == 2
    # Once there is room again, it goes on.
    checkpoints.save(newer, info(4))
    checkpoints.wait()
    assert checkpoints.newest().step == 4
  assert go_on(copy, abstract).info.step == 4


def test_a_failed_save_does_not_hide_what_went_wrong_first(saved, copy):
  def run(first_cause):
    with (
      full_disk(),
      Checkpoints(epath.Path(copy), keep_last=2) as checkpoints,
    ):
      checkpoints.save(saved[2], info(3))
      if first_cause:
        raise first_cause

  with pytest.raises(KeyError, match='the first cause') as error:
    run(KeyError('the first cause'))
  assert any('Step 3 could not be saved' in n for n in error.value.__notes__)
  # Nor is a save that failed at the very end forgotten.
  with pytest.raises(SaveError, match='Step 3 could not be saved'):
    run(None)


def test_the_best_step_is_not_forgotten_for_a_value_that_is_no_number(copy):
  _, newer, _ = states()
  best = Best(value=1.0, step=2, waited=0)
  with Checkpoints(epath.Path(copy), keep_last=1) as checkpoints:
    for step in (3, 4):
      checkpoints.save(
        newer,
        Info(step=step, config={'loss': math.nan}, data_fingerprint='f',
             seen=Seen(best=best)),
      )  # fmt: skip
  with Checkpoints(epath.Path(copy), keep_last=None) as checkpoints:
    assert checkpoints.steps() == [2, 4]


def test_checking_finds_the_damaged_step(copy):
  spoil(copy / '1')
  with Checkpoints(epath.Path(copy), keep_last=None) as checkpoints:
    checkpoints.check(2)
    with pytest.raises(DamagedError, match=r'cannot be read|is damaged'):
      checkpoints.check(1)
    assert checkpoints.size(2) == sum(
      f.stat().st_size for f in files_of(copy / '2')
    )

"""What comes from outside is data: it is not run, and no secret leaks."""

import ast
import json
import os
import pickle
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_configs import prepared, text_config, write_corpus

from input_pipeline import named_arrays, store_manifest
from input_pipeline.errors import DataError
from input_pipeline.store import open_store
from train.cluster.bind import bind_address
from train.compilation_cache import private_folder
from train.redact import REDACTED, redact, redact_arguments, redact_text

ROOT = Path(__file__).parent.parent
PROGRAM = [
  ROOT / 'main.py',
  *(
    path
    for room in ('configs', 'model', 'train', 'input_pipeline', 'benchmarks')
    for path in sorted((ROOT / room).rglob('*.py'))
  ),
]
# They run what they read, or write where what they read says.
MODULES = {
  'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'marshal',
  'shelve', 'yaml', 'tarfile', 'zipfile',
}  # fmt: skip
CALLS = {
  'eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen',
  'torch.load', 'yaml.load', 'shutil.unpack_archive', 'read_pickle',
}  # fmt: skip
FLAGS = {'allow_pickle', 'trust_remote_code', 'shell'}
# A configuration is a program of the user's; a mistake in it is looked for.
RUNS_FILES = {'configs/mistakes.py'}


def faults(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from {alias.name.partition('.')[0] for alias in node.names} & (
        MODULES | {'runpy'}
      )
    elif isinstance(node, ast.ImportFrom):
      yield from {node.module.partition('.')[0]} & (MODULES | {'runpy'})
    elif isinstance(node, ast.Call):
      yield from {ast.unparse(node.func)} & CALLS
      for keyword in node.keywords:
        if keyword.arg in FLAGS and ast.unparse(keyword.value) != 'False':
          yield keyword.arg


def test_nothing_that_is_read_is_run():
  assert len(PROGRAM) > 100
  found = {
    path.relative_to(ROOT).as_posix(): set(faults(path)) for path in PROGRAM
  }
  wanted = {name: {'runpy'} for name in RUNS_FILES}
  assert {name: faults for name, faults in found.items() if faults} == wanted


def test_the_search_finds_what_it_is_for(tmp_path):
  path = tmp_path / 'bad.py'
  for line, name in [
    ('import pickle', 'pickle'),
    ('from yaml import load', 'yaml'),
    ('np.load(file, allow_pickle=True)', 'allow_pickle'),
    ('f(trust_remote_code=flag)', 'trust_remote_code'),
    ('eval(text)', 'eval'),
    ('subprocess.run(a, shell=True)', 'shell'),
  ]:
    path.write_text(line)
    assert set(faults(path)) == {name}


class Bomb:
  """Makes a file when it is read by pickle."""

  def __init__(self, canary):
    self.canary = canary

  def __reduce__(self):
    return os.mkdir, (str(self.canary),)


def bombs(canary):
  """Files that make the canary if they are run, by kind."""
  objects = np.array([Bomb(canary)], object)
  plain, packed = canary.parent / 'bomb.npy', canary.parent / 'bomb.npz'
  np.save(plain, objects, allow_pickle=True)
  np.savez(packed, objects)
  return {
    'pickle': pickle.dumps(Bomb(canary)),
    'npy': plain.read_bytes(),
    'npz': packed.read_bytes(),
    'python': f'import os; os.mkdir({str(canary)!r})\n'.encode(),
  }


def test_the_bombs_go_off(tmp_path):
  canary = tmp_path / 'canary'
  pickle.loads(bombs(canary)['pickle'])
  assert canary.exists()


def test_a_store_with_a_program_in_it_is_damaged(tmp_path):
  write_corpus(tmp_path)
  store = prepared(text_config(tmp_path)).directory
  canary = tmp_path / 'canary'
  for kind in ('npy', 'pickle'):
    bomb = bombs(canary)[kind]
    (path,) = store.glob('train-*.pieces.npy')
    path.write_bytes(bomb)
    # Whoever made the store gave it the right sizes and checksums.
    manifest = store / 'manifest.json'
    fields = json.loads(manifest.read_text())
    shard = fields['splits']['train']['shards'][0]
    shard['pieces_bytes'] = len(bomb)
    shard['pieces_sha256'] = store_manifest.hashlib.sha256(bomb).hexdigest()
    del fields[store_manifest.CHECKSUM]
    fields[store_manifest.CHECKSUM] = store_manifest.checksum(fields)
    manifest.write_text(json.dumps(fields))
    opened = open_store(store)
    with pytest.raises(DataError, match=r'pieces\.npy is no table'):
      opened.rows('train').pieces(np.arange(2))
  assert not canary.exists()


def test_what_preparation_leaves_behind_is_data(tmp_path):
  arrays = [np.arange(3, dtype=np.uint64), np.zeros((2, 2), np.int32)]
  facts = {'names': ['a', 'b/..'], 'n': 1}
  found, read = named_arrays.unpack(named_arrays.pack(facts, arrays))
  assert found == facts
  for left, right in zip(arrays, read, strict=True):
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)
  canary = tmp_path / 'canary'
  for bomb in bombs(canary).values():
    with pytest.raises(ValueError, match=r'pickle|zip|arr_0'):
      named_arrays.unpack(bomb)
  assert not canary.exists()


def test_secrets_are_taken_out():
  for text in (
    '--api_key=hunter2',
    'password: "hunter2"',
    "--x=('--job=1', '--hf-token=hunter2')",
    's3://me:hunter2@host/path',
    'https://host/file?signature=hunter2&x=1',
    'AWS_SECRET_KEY=hunter2',
    '{"client_secret": "hunter2"}',
    '--password=12345678',
    '--password=a,b]hunter2',
  ):
    for cleaned in (redact_text(text), *redact_arguments([text])):
      assert 'hunter2' not in cleaned, text
      assert '12345678' not in cleaned, text
      assert REDACTED in cleaned, text
      assert redact_text(cleaned) == cleaned
  words = ['--password', 'hunter2', '--hf-token', 'hunter2', '--x', 'y']
  assert redact_arguments(words) == [
    '--password', REDACTED, '--hf-token', REDACTED, '--x', 'y'
  ]  # fmt: skip
  config = {
    'engine': {'options': ['--project=p', '--token=hunter2']},
    'password': 'hunter2',
    'keys': {'api_key': ['hunter2']},
  }
  assert 'hunter2' not in json.dumps(redact(config))
  assert '--project=p' in json.dumps(redact(config))


def test_what_is_no_secret_stays():
  from configs import base, check

  config = check.to_dict(base.get_config())
  assert redact(config) == config
  for argument in (
    '--config.model.moe.experts_per_token=4',
    '--config.data.tokenizer.kind=bytes',
    '--config.data.tokenizer.special_tokens=("<|a|>",)',
    '--max_tokens=7',
    '--workdir=gs://bucket/keys/run',
    '--xla_dump_to=/tmp/x',
    '--prompt=the key to it',
  ):
    assert redact_arguments(['main.py', argument, 'x'])[1] == argument


def test_the_folder_of_compiled_programs_is_private(
  tmp_path, monkeypatch, capsys
):
  path = tmp_path / 'a' / 'compiled'
  assert private_folder(str(path)) == str(path)
  assert stat.S_IMODE(path.stat().st_mode) == 0o700
  path.chmod(0o777)
  private_folder(str(path))
  assert stat.S_IMODE(path.stat().st_mode) == 0o700
  assert private_folder('gs://bucket/x') == 'gs://bucket/x'
  assert capsys.readouterr().err == ''
  monkeypatch.setattr(os, 'geteuid', lambda: path.stat().st_uid + 1)
  assert private_folder(str(path)) is None
  assert 'is not used: it belongs to the user' in capsys.readouterr().err


def names(monkeypatch, **addresses):
  """Names that this machine knows, and addresses that are its own."""

  def look_up(host, port, **_):
    return [(0, 0, 0, '', (a, 0)) for a in addresses.get(host, [host])]

  monkeypatch.setattr(socket, 'getaddrinfo', look_up)
  monkeypatch.setattr(
    'train.cluster.bind._is_here', lambda host: not host.startswith('8.')
  )


@pytest.mark.parametrize(
  ('address', 'bound'),
  [
    ('localhost:1', '127.0.0.1:1'),
    ('127.0.0.1:1', '127.0.0.1:1'),
    ('[::1]:1', '[::1]:1'),
    ('10.0.0.3:8482', '10.0.0.3:8482'),
    ('node:2', '10.0.0.4:2'),
    ('both:2', '10.0.0.5:2'),
    # It would listen where nobody else can reach it.
    ('self:3', None),
    ('elsewhere:4', None),
    ('two:5', None),
  ],
)
def test_the_coordinator_listens_on_one_network(monkeypatch, address, bound):
  names(
    monkeypatch,
    localhost=['127.0.0.1', '::1'],
    node=['10.0.0.4'],
    both=['fd00::5', '10.0.0.5'],
    self=['127.0.1.1'],
    elsewhere=['8.8.8.8'],
    two=['10.0.0.6', '10.0.0.7'],
  )
  assert bind_address(address) == bound


def test_an_address_is_of_this_machine_or_not():
  assert bind_address('127.0.0.1:0') == '127.0.0.1:0'
  # Of a network for examples, which is nobody's (RFC 5737).
  assert bind_address('192.0.2.1:1') is None


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'requirements').glob('*.txt')), ids=lambda p: p.name
)
def test_every_package_is_pinned_with_its_hash(path):
  text = path.read_text().replace('\\\n', ' ')
  lines = [line.partition(' #')[0].strip() for line in text.splitlines()]
  lines = [line for line in lines if line and not line.startswith('#')]
  assert len(lines) > 20 or lines[0].startswith('uv==')
  for line in lines:
    assert re.match(r'[\w.-]+(\[[\w,-]+\])?==[\w.+]+( |$)', line), line
    hashes = re.findall(r'--hash=(\S+)', line)
    assert hashes, line
    assert all(re.fullmatch(r'sha256:[0-9a-f]{64}', h) for h in hashes), line


def test_pip_is_always_told_to_compare_hashes():
  scripts = [
    *(ROOT / 'scripts').iterdir(), *(ROOT / 'launch').iterdir(),
    ROOT / '.ci' / 'run',
  ]  # fmt: skip
  found = 0
  for script in scripts:
    text = script.read_text().replace('\\\n', ' ')
    for line in text.splitlines():
      if re.search(r'\bpip3? install\b', line):
        found += 1
        assert '--require-hashes' in line, f'{script.name}: {line}'
  assert found >= 2


def test_a_package_with_another_hash_is_refused(tmp_path):
  """pip itself compares; what it is given is a file of this machine."""
  (tmp_path / 'x.py').write_text('')
  name = 'x-1.0-py3-none-any.whl'
  (tmp_path / name).write_bytes(b'not what was pinned')
  pins = tmp_path / 'pins.txt'
  pins.write_text(f'x @ file://{tmp_path}/{name} --hash=sha256:{"0" * 64}\n')
  done = subprocess.run(
    [sys.executable, '-m', 'pip', 'install', '--require-hashes', '--no-index',
     '--disable-pip-version-check', '--target', str(tmp_path / 'to'), '-r',
     str(pins)],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode != 0
  assert 'DO NOT MATCH THE HASHES' in done.stderr


def spoil(folder, canary):
  """Puts programs into a folder, under names that Python might look for."""
  bomb = bombs(canary)['python']
  for name in (
    'config.py', '__init__.py', 'sitecustomize.py', 'tiny.py', 'jax.py',
    'input_pipeline.py', 'conftest.py',
  ):  # fmt: skip
    (folder / name).write_bytes(bomb)

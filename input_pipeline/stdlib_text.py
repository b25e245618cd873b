"""The TFDS dataset `stdlib_text`: text that every machine has.

The Python sources of the running interpreter's standard library are the code,
and the language reference that `pydoc` prints is the prose. Nothing is
downloaded. The version of the interpreter is the name of the builder's config,
so texts of two interpreters never share a directory.
"""

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from input_pipeline.tfds_source import INTERPRETER

LICENCE = 'PSF-2.0'
_VALIDATION_PERCENT = 5


def library_directory() -> Path:
  """Where the standard library lies."""
  return Path(sysconfig.get_paths()['stdlib'])


def topics() -> dict[str, str]:
  """Name -> text of the language reference, by topic."""
  from pydoc_data.topics import topics as by_name

  return dict(by_name)


class StdlibText(tfds.core.GeneratorBasedBuilder):
  """Source files and reference topics, one document each."""

  name = 'stdlib_text'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [  # noqa: RUF012, the base class declares it
    tfds.core.BuilderConfig(name=INTERPRETER, description=f'Of {INTERPRETER}.')
  ]

  # Checksums of downloads, of which there are none.
  url_infos = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      license=LICENCE,
      features=tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'id': tfds.features.Text(),
          'source': tfds.features.Text(),
        }
      ),
      metadata=tfds.core.MetadataDict(interpreter=INTERPRETER, licence=LICENCE),
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, str]]]]:
    del dl_manager  # nothing is downloaded
    return {
      'train': self._generate_examples(validation=False),
      'validation': self._generate_examples(validation=True),
    }

  def _generate_examples(
    self, validation: bool
  ) -> Iterator[tuple[int, dict[str, str]]]:
    chosen = (
      example
      for example in _documents()
      if _is_validation(example['id']) == validation
    )
    yield from enumerate(chosen)


def _documents() -> Iterator[dict[str, str]]:
  root = library_directory()
  outside = {'site-packages', 'dist-packages', '__pycache__'}
  files = {
    path.relative_to(root).as_posix(): path
    for path in root.rglob('*.py')
    if not outside.intersection(path.relative_to(root).parts)
  }
  for name in sorted(files):
    text = _source_text(files[name])
    if text is not None:
      yield {'text': text, 'id': name, 'source': 'code'}
  for name, text in sorted(topics().items()):
    yield {'text': text, 'id': f'topics/{name}', 'source': 'prose'}


def _source_text(path: Path) -> str | None:
  """Text of a source file, or None if its encoding is broken.

  Some files of the library's own tests are broken on purpose.
  """
  try:
    with tokenize.open(path) as file:
      return file.read()
  except (SyntaxError, UnicodeDecodeError):
    return None


def _is_validation(identifier: str) -> bool:
  digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big') % 100 < _VALIDATION_PERCENT

"""Which documents stood in the batch of a step."""

import dataclasses
import json
from collections.abc import Iterator, Sequence

from input_pipeline.left_out import Window, batch_number
from input_pipeline.stream import Stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
  """Part of a document in a batch.

  Attributes:
    row: place in the global batch.
    column: place of the part's mark in the row.
    length: places, the mark and a final eos included.
    offset: tokens of the document before the part.
    epoch: how often the dataset was read before.
    dataset: its name in the mixture; '' where there is none.
    source: of the document.
    document: its id.
  """

  row: int
  column: int
  length: int
  offset: int
  epoch: int
  dataset: str
  source: str
  document: str


def documents_of_step(
  stream: Stream, step: int, *, row_start: int, row_stop: int
) -> Iterator[Seen]:
  """The documents in rows [row_start, row_stop) of the global batch.

  Args:
    stream: the training rows of the run.
    step: number of the batch.
    row_start: first row.
    row_stop: one past the last.
  """
  places = stream.places_of_step(step, row_start, row_stop)
  rows = zip(
    range(row_start, row_stop),
    places.part_N.tolist(),
    places.epoch_N.tolist(),
    stream.pieces(places),
    strict=True,
  )
  for row, part, epoch, pieces in rows:
    for piece in pieces:
      yield Seen(
        row=row,
        column=piece.column,
        length=piece.length,
        offset=piece.offset,
        epoch=epoch,
        dataset=stream.names[part],
        source=piece.source,
        document=piece.document,
      )


def documents_of_run(
  stream: Stream,
  *,
  step: int | None,
  steps: int,
  row: int | None,
  rows: int,
  left_out: Sequence[Window],
  lines_of_json: bool,
) -> str:
  """The documents of a step of a run, for a person or a program.

  Args:
    stream: the training rows of the run.
    step: counted from 1, as in the log.
    steps: of the run.
    row: of the batch; None: all.
    rows: of the batch.
    left_out: batches that the run does not read.
    lines_of_json: an object a line in place of a table.

  Raises:
    ValueError: there is no such step or row.
  """
  if step is None or not 1 <= step <= steps:
    raise ValueError(
      f'Give a step from 1, the first update, to config.steps = {steps}:'
      f' --step=1{"" if step is None else f", not {step}"}'
    )
  if row is not None and not 0 <= row < rows:
    raise ValueError(f'--row={row}: the batch has rows 0 to {rows - 1}.')
  found = documents_of_step(
    stream,
    batch_number(step - 1, left_out),
    row_start=0 if row is None else row,
    row_stop=rows if row is None else row + 1,
  )
  return (as_json if lines_of_json else as_table)(list(found))


def as_json(found: Sequence[Seen]) -> str:
  """One object a line."""
  return '\n'.join(json.dumps(dataclasses.asdict(seen)) for seen in found)


def as_table(found: Sequence[Seen]) -> str:
  """Columns under their names; without a mixture there is no dataset."""
  names = [field.name for field in dataclasses.fields(Seen)]
  if not any(seen.dataset for seen in found):
    names.remove('dataset')
  lines = [names]
  lines += [[str(getattr(seen, name)) for name in names] for seen in found]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  numbers = names.index('epoch') + 1
  return '\n'.join(
    '  '.join(
      value.rjust(width) if n < numbers else value.ljust(width)
      for n, (value, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )

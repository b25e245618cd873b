"""Commands on a trained run: evaluate and sample."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath

from model.params import Params
from model.sampling import SamplingConfig, generate
from train.checkpoint import Checkpoints
from train.checkpoint_info import DamagedError
from train.config import TrainConfig
from train.data import prepared_stores, validation_splits
from train.distributed import check_same, wait_for_all
from train.evaluate import evaluate
from train.mesh import make_mesh
from train.setup import compile_eval_step, data_marks, make_setup
from train.state import Recipe, abstract_state, make_recipe, state_shardings
from train.workdir import CHECKPOINTS, SAMPLE_FILE, TOKENIZER_FILE

if TYPE_CHECKING:
  from input_pipeline.config import TrainingData
  from input_pipeline.tokenizer import Tokenizer

# Prompts are padded to a multiple of this, so that few lengths are compiled.
_PROMPT_MULTIPLE = 32


def evaluate_run(
  config: TrainConfig, data: 'TrainingData', *, workdir: epath.Path, which: str
) -> dict[str, float]:
  """Evaluates a checkpoint on the whole validation split.

  Args:
    config: the training part of the configuration.
    data: the datasets.
    workdir: folder of the run.
    which: 'best', 'last' or a step.

  Returns:
    step, loss, perplexity, bits_per_byte and tokens; 'loss/NAME' of each
    dataset of a mixture.
  """
  setup = make_setup(config)
  # The checkpoint is looked for first: data may take long to prepare.
  with _saved_run(workdir, which) as (checkpoints, step):
    stores = prepared_stores(data)
    info = checkpoints.info(step)
    where = ', '.join(str(s.directory) for s in stores.stores)
    if info.data_fingerprint != stores.fingerprint:
      raise ValueError(
        f'Step {step} was trained on data {info.data_fingerprint[:12]}, and '
        f'{where} is {stores.fingerprint[:12]}: its '
        'validation documents may have been trained on, or its tokens be '
        'others. Prepare the data of the run, or evaluate with its config.'
      )
    marks = data_marks(config.model, stores.first.manifest)
    abstract = abstract_state(setup.recipe, setup.shardings)
    params = checkpoints.restore_params(step, abstract)
    eval_step = compile_eval_step(
      setup, marks, params, stores.first.rows('validation')
    )
    wait_for_all()
    return {'step': step} | evaluate(
      eval_step, params, validation_splits(setup, stores)
    )


def sample_run(
  config: TrainConfig,
  *,
  workdir: epath.Path,
  which: str,
  prompts: Sequence[str],
  sampling: SamplingConfig,
  seed: int,
) -> list[tuple[str, str]]:
  """Continues prompts, and leaves the result in the workdir.

  Args:
    config: the training part of the configuration.
    workdir: folder of the run.
    which: 'best', 'last' or a step.
    prompts: texts to continue; an empty one starts a document.
    sampling: how tokens are chosen.
    seed: of the choice.

  Returns:
    Pairs of prompt and continuation.
  """
  from input_pipeline.tokenizer import load_tokenizer

  with _saved_run(workdir, which) as (checkpoints, step):
    tokenizer = load_tokenizer(workdir / TOKENIZER_FILE)
    # Sampling reads the parameters for each token: they stay on the devices.
    recipe = make_recipe(
      dataclasses.replace(
        config, offload_parameters=False, offload_optimizer=False
      )
    )
    shardings = state_shardings(recipe, make_mesh(config.mesh))
    params = checkpoints.restore_params(step, abstract_state(recipe, shardings))
  texts = continue_prompts(
    recipe, params, tokenizer, prompts=prompts, sampling=sampling, seed=seed
  )
  pairs = list(zip(prompts, texts, strict=True))
  if jax.process_index() == 0:
    (workdir / SAMPLE_FILE).write_text(
      '\n\n'.join(prompt + text for prompt, text in pairs) + '\n'
    )
  return pairs


def continue_prompts(
  recipe: Recipe,
  params: Params,
  tokenizer: 'Tokenizer',
  *,
  prompts: Sequence[str],
  sampling: SamplingConfig,
  seed: int,
) -> list[str]:
  """Continues a batch of prompts.

  Raises:
    ValueError: a prompt is not UTF-8, or is too long for a model with learned
      positions.
  """
  config = recipe.config.model
  for number, text in enumerate(prompts, start=1):
    if any('\ud800' <= character <= '\udfff' for character in text):
      raise ValueError(f'Prompt {number} is not UTF-8: {text!a:.60}')
  ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in prompts]
  longest = max(len(i) for i in ids)
  if (
    config.positions == 'learned'
    and longest + sampling.max_tokens > config.max_length
  ):
    raise ValueError(
      f'The longest prompt has {longest} tokens, and with --max_tokens='
      f'{sampling.max_tokens} that makes {longest + sampling.max_tokens}; the '
      f'model has {config.max_length} learned positions. Lower --max_tokens.'
    )
  width = -(-longest // _PROMPT_MULTIPLE) * _PROMPT_MULTIPLE
  prompts_BT = np.full((len(ids), width), tokenizer.pad_id, np.int32)
  for row, tokens in zip(prompts_BT, ids, strict=True):
    row[width - len(tokens) :] = tokens
  allowed_V = np.arange(config.vocab_size) < tokenizer.vocab_size
  marks = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.continue_id]
  # Reserved tokens are marks of augmented rows and no part of any text.
  allowed_V[[*marks, *tokenizer.special_tokens.values()]] = False
  tokens_BS = generate(
    params,
    prompts_BT,
    np.array([len(i) for i in ids], np.int32),
    allowed_V,
    jax.random.key(seed),
    graphdef=recipe.graphdef,
    config=config,
    sampling=sampling,
    eos_id=tokenizer.eos_id,
  )
  texts = []
  for tokens in np.asarray(tokens_BS):
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    texts.append(tokenizer.decode(tokens[: ends[0]] if ends.size else tokens))
  return texts


def list_checkpoints(workdir: epath.Path, *, check: bool) -> bool:
  """Prints the checkpoints of a run, a line each, the oldest first.

  Args:
    workdir: folder of the run.
    check: whether to compare every array with its fingerprint.

  Returns:
    Whether none is known to be damaged.
  """
  damaged = False
  with _saved_run(workdir, 'last') as (checkpoints, _):
    for step in checkpoints.steps():
      said, size = 'not verified', f'{checkpoints.size(step) / 1e6:,.1f} MB'
      try:
        best = checkpoints.info(step).best
        if check:
          checkpoints.check(step)
          said = 'good'
        if best.step == step:
          said += f', best so far: {best.value:.4f}'
      except DamagedError as error:
        damaged, said = True, str(error)
      print(f'step {step:>9,}  {size:>12}  {said}', flush=True)
  return not damaged


def left_out_of_run(workdir: epath.Path) -> tuple[tuple[int, int], ...]:
  """The batches that a run does not read, as its newest checkpoint says."""
  if not (workdir / CHECKPOINTS).exists():
    return ()
  with Checkpoints(workdir / CHECKPOINTS, keep_last=None) as checkpoints:
    newest = checkpoints.newest()
  return newest.left_out if newest else ()


@contextlib.contextmanager
def _saved_run(
  workdir: epath.Path, which: str
) -> Iterator[tuple[Checkpoints, int]]:
  """The checkpoints of a run, and the step that is asked for."""
  directory = workdir / CHECKPOINTS
  if not directory.exists():
    raise ValueError(
      f'{workdir} holds no run: there is no {CHECKPOINTS} folder in it. Train '
      f'first: python main.py train --config=... --workdir={workdir}'
    )
  with Checkpoints(directory, keep_last=None) as checkpoints:
    step = checkpoints.find(which)
    check_same({'the checkpoint': step})
    yield checkpoints, step

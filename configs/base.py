"""Every field of a run, its default and its meaning.

Defaults live here and nowhere else: the other configs start from
`get_config()` and assign. `None` means "off" or "derived", as the comment says.
"""

from ml_collections import ConfigDict, config_dict

from configs.augmentation import get_augmentation
from configs.curation import get_curation
from configs.faults import (
  get_bad_steps,
  get_checkpoint,
  get_device_check,
  get_watchdog,
)
from configs.model import get_model
from configs.offload import get_offload
from configs.planning import get_planning
from configs.stopping import get_early_stopping


def get_config() -> ConfigDict:
  """Returns the complete default configuration."""
  config = ConfigDict()

  # Everything random (initial weights, batches, dropout) derives from it.
  config.seed = 0
  # Updates of the weights in the whole run; the schedule ends there.
  config.steps = 1_000
  # Rows of the global batch of one step, over all devices and hosts.
  config.batch_size = 64
  # The batch is computed in this many slices, one after the other, to save
  # memory. The gradients are those of the whole batch.
  config.accumulation_steps = 1
  # A slice passes the stages of a pipeline in this many microbatches, a
  # multiple of the stages: of microbatches + stages - 1 ticks, a stage is idle
  # in stages - 1.
  # None: four a stage; one without stages (mesh.stage = 1).
  config.microbatches = config_dict.placeholder(int)
  # Tokens that a row feeds to the model.
  config.sequence_length = 1_024
  # Rows hold several documents. True: attention stays within a document, and
  # positions start over in each. False: a row is one text.
  config.isolate_documents = True

  config.model = get_model()
  config.loss = _loss()
  config.optimizer = _optimizer()
  config.mesh = _mesh()
  config.offload = get_offload()
  config.data = _data()
  config.augmentation = get_augmentation()
  config.evaluation = _evaluation()
  config.early_stopping = get_early_stopping()
  config.bad_steps = get_bad_steps()
  config.watchdog = get_watchdog()
  config.device_check = get_device_check()
  config.checkpoint = get_checkpoint()
  config.log = _log()
  config.runtime = _runtime()
  config.planning = get_planning()
  return config


def _loss() -> ConfigDict:
  """Cross-entropy over the vocabulary."""
  loss = ConfigDict()
  # Weight of the squared log-normaliser (z-loss; PaLM uses 1e-4).
  loss.z_loss = 0.0
  # Positions of a row whose logits exist at a time; divides sequence_length.
  loss.chunk = 256
  return loss


def _optimizer() -> ConfigDict:
  """Optimizer and learning-rate schedule."""
  optimizer = ConfigDict()
  # 'adamw', 'lion', 'adafactor', 'sgd' or 'muon' (matrices by Muon, the rest
  # by AdamW).
  optimizer.name = 'adamw'
  # Peak of the schedule.
  optimizer.learning_rate = 3e-4
  # 'constant', 'linear', 'cosine' or 'wsd' (warm-up, stable, decay).
  optimizer.schedule = 'cosine'
  # Steps of linear warm-up from zero.
  optimizer.warmup_steps = 100
  # Steps of the linear decay that ends a 'wsd' schedule, and of the cool-down
  # that a plateau begins (configs/stopping.py).
  optimizer.decay_steps = 200
  # The schedule ends at this fraction of the peak.
  optimizer.final_fraction = 0.1
  # Decoupled weight decay, multiplied by the learning rate.
  optimizer.weight_decay = 0.1
  # Kinds of parameters that decay; norms, biases and embeddings do not.
  optimizer.decay_kinds = ('matrix', 'head')
  # AdamW and Lion; Muon's AdamW part.
  optimizer.b1 = 0.9
  optimizer.b2 = 0.95
  optimizer.epsilon = 1e-8
  # SGD's and Muon's momentum.
  optimizer.momentum = 0.95
  # Learning rates of the embeddings and of the output head, as multiples of
  # that of the schedule. Their weight decay stays.
  optimizer.embedding_rate = 1.0
  optimizer.head_rate = 1.0
  # Keep the norm of each matrix as it starts, and turn it by the learning rate;
  # no weight decay on matrices then (Hyperball, Wen et al. 2026).
  optimizer.hyperball = False
  # Gradients are scaled down to this global norm; None: off.
  optimizer.clip_norm = 1.0
  # Keep an exponential moving average of the parameters with this decay, and
  # evaluate and sample with it; None: off.
  optimizer.ema_decay = config_dict.placeholder(float)
  # Mesh axes that split moments and average beside those that split the
  # parameters, such as ('data',) (ZeRO stage 1). It saves memory; new
  # parameters are then gathered at the end of a step, where nothing hides it.
  optimizer.shard_axes = ()
  return optimizer


def _mesh() -> ConfigDict:
  """How arrays lie on the devices."""
  mesh = ConfigDict()
  # Devices along each axis, the slowest network first; their product is the
  # number of devices, and -1 (once) takes what the others leave.
  # Pipeline stages: consecutive layers lie on consecutive stages.
  mesh.stage = 1
  # Copies of the model that share the batch.
  mesh.data = -1
  # Shares of the batch, and of each parameter, which is gathered for use.
  mesh.fsdp = 1
  # Shares of the experts of a mixture-of-experts model, and of the batch.
  mesh.expert = 1
  # Parts of each row, for long sequences.
  mesh.context = 1
  # Parts of heads, feed-forward width and vocabulary.
  mesh.tensor = 1
  # Times so many along each axis over the data-center network: slices of a
  # multi-slice TPU, or processes. mesh.AXIS is then the size within a slice.
  mesh.dcn = ConfigDict()
  mesh.dcn.stage = 1
  mesh.dcn.data = 1
  mesh.dcn.fsdp = 1
  mesh.dcn.expert = 1
  mesh.dcn.context = 1
  mesh.dcn.tensor = 1
  # Logical axis of an array -> mesh axes that split it.
  mesh.rules = ConfigDict()
  mesh.rules.batch = ('data', 'fsdp', 'expert')
  mesh.rules.length = ('context',)
  # Positions of the residual stream, between the layers' matrix products.
  mesh.rules.residual_length = ('context', 'tensor')
  mesh.rules.vocab = ('tensor',)
  # Width of the model, in parameters.
  mesh.rules.embed = ('fsdp', 'context')
  mesh.rules.heads = ('tensor',)
  mesh.rules.kv_heads = ('tensor',)
  mesh.rules.head_dim = ()
  mesh.rules.experts = ('expert',)
  mesh.rules.mlp = ('tensor',)
  mesh.rules.layers = ('stage',)
  return mesh


def _data() -> ConfigDict:
  """What the model is trained on."""
  data = ConfigDict()
  # Prepared stores and TFDS builds live here; local or gs://.
  data.directory = 'data'
  # Several datasets, each with a name of your choice and a weight:
  #   data.mixture.code = base.dataset()
  #   data.mixture.code.weights = ('0.3',)
  # None: the one that the fields below describe.
  data.mixture = ConfigDict()
  _source(data)
  # A document that cannot be read: 'error' stops, 'skip' counts and goes on.
  data.on_bad_document = 'error'
  # With 'skip', a larger share of documents that cannot be read is an error.
  data.max_bad_fraction = 0.01
  data.tokenizer = ConfigDict()
  # 'bpe' (byte-level, trained on the training documents), 'file' (a
  # tokenizer.json) or 'bytes'.
  data.tokenizer.kind = 'bpe'
  # Size of a trained vocabulary, special tokens included.
  data.tokenizer.vocab_size = 32_768
  # A vocabulary is trained on the first this many bytes of a hash-ordered
  # sample of the documents.
  data.tokenizer.train_bytes = 100_000_000
  # tokenizer.json for 'file'.
  data.tokenizer.path = config_dict.placeholder(str)
  # Tokens to reserve beside those that structure a row: what augmentations
  # mark with. One that lacks its tokens says what to set here.
  data.tokenizer.special_tokens = ()
  # Copies of the training rows that leave out merges at random, each with this
  # probability (BPE-dropout; 0.1 in the paper). Epoch n reads copy n modulo
  # (copies + 1), where 0 is the text as it is; more copies, more disk.
  data.tokenizer.copies = 0
  data.tokenizer.dropout = 0.0
  data.engine = ConfigDict()
  # What prepares: 'local', processes of this machine, or 'beam', Apache Beam
  # (an extra) on the cluster that its runner names. Both make the same store.
  data.engine.name = 'local'
  # Of Beam: 'FnApiRunner' (this machine), 'DataflowRunner', 'FlinkRunner', ...,
  # and its options as on a command line: ('--project=mine', ...).
  data.engine.runner = 'FnApiRunner'
  data.engine.options = ()
  # Processes of the local engine; None: one a core.
  data.workers = config_dict.placeholder(int)
  # Batches read ahead of the step.
  data.prefetch = 2
  return data


def dataset() -> ConfigDict:
  """One dataset, to be put into `config.data.mixture` under a name."""
  data = ConfigDict()
  _source(data)
  # Its share of the rows, beside those of the others: ('0.7',), or by step:
  # ('0: 0.7', '8000: 0.2') or ('0: 0.7', '9000..10000: 0.7 -> 0.2').
  data.weights = ('1',)
  return data


def _source(data: ConfigDict) -> None:
  """What one dataset is made of."""
  # 'tfds', 'text', 'jsonl' or 'parquet'.
  data.source = 'tfds'
  # TFDS: name and splits (TFDS slicing works, such as 'train[:10%]'; without a
  # validation split, '', see validation_fraction), and the data_dir that holds
  # it; None: <directory>/tfds. 'stdlib_text' is built from the running
  # interpreter and needs no download.
  data.name = 'stdlib_text'
  data.split = 'train'
  data.validation_split = 'validation'
  data.tfds_dir = config_dict.placeholder(str)
  # Files: globs of the training and of the validation documents.
  data.files = ()
  data.validation_files = ()
  # Without validation documents, this fraction of all, chosen by a hash of
  # their id, is held out.
  data.validation_fraction = 0.05
  # Field or column that holds the text (tfds, jsonl, parquet).
  data.text_field = 'text'
  # Field that names the source of a document, for curation, counts and the
  # data card. None: the folder of its file, as in its id; for TFDS the feature
  # 'source', if there is one, else the name of the dataset.
  data.source_field = config_dict.placeholder(str)
  # Field that names its licence, for the data card; None: unknown.
  data.licence_field = config_dict.placeholder(str)
  # What is cleaned, left out and counted; configs/curation.py has its fields.
  data.curation = get_curation()


def _evaluation() -> ConfigDict:
  """Loss on the validation split."""
  evaluation = ConfigDict()
  # Steps between evaluations; the last step is always evaluated.
  evaluation.every = 100
  # Rows of an evaluation batch; None: batch_size / accumulation_steps.
  evaluation.batch_size = config_dict.placeholder(int)
  return evaluation


def _log() -> ConfigDict:
  """What a run prints and writes."""
  log = ConfigDict()
  # Steps between log lines and metric records.
  log.every = 10
  # Write TensorBoard event files beside metrics.jsonl.
  log.tensorboard = True
  # Profile this many steps, from this one on, into the workdir; None: none.
  log.profile_start = config_dict.placeholder(int)
  log.profile_steps = 3
  return log


def _runtime() -> ConfigDict:
  """The machine, not the experiment."""
  runtime = ConfigDict()
  # Compiled programs are kept here between runs; None: never. A path given in
  # JAX_COMPILATION_CACHE_DIR wins.
  runtime.compilation_cache = '~/.cache/meshwork/compiled'
  return runtime

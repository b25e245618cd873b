"""The one door to TensorFlow: quiet, and without a claim on accelerators."""

import functools
import os
from types import ModuleType


@functools.cache
def tensorflow() -> ModuleType:
  """Imports TensorFlow for reading data only.

  Accelerators belong to JAX: TensorFlow would reserve their memory.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # Says so on stderr, whatever the log level, wherever it is on.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  tf.config.set_visible_devices([], 'TPU')
  return tf

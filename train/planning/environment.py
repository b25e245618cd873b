"""Environment variables that let libtpu compile on a machine without TPUs."""

import os

VARIABLES = {
  # The process computes nothing: TPUs of this machine stay free for others.
  'JAX_PLATFORMS': 'cpu',
  # No question to the metadata server of a cloud machine.
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  # Any name of a known machine; the topology says what is compiled for.
  'TPU_ACCELERATOR_TYPE': 'v5p-8',
  # libtpu's lock file is there to guard chips, of which none is used.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_MIN_LOG_LEVEL': '3',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}


def set_up_environment() -> None:
  """Sets them; call it before anything imports JAX."""
  os.environ |= VARIABLES

"""How the process keeps memory between batches."""

import numpy as np

# glibc takes 32 MB at most into account.
_LARGEST = 16 << 20


def keep_freed_memory() -> None:
  """Lets the C library keep what is freed, for the next batch.

  glibc returns free memory to the system beyond twice the largest block that
  was ever freed, and the next batch then pays for each page anew: half of the
  time of augmentation. One large block, freed once and never touched, raises
  that bound. Elsewhere this does nothing.
  """
  np.empty(_LARGEST, np.uint8)

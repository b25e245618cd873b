"""The fields of `augmentation`, a part of base.py: how training rows change.

All are off. What each does, with its paper, stands in docs/augmentation.md. A
rate is a share of tokens, pieces, rows or documents. The shares of pieces of
fill_in_the_middle, ul2 and right_to_left are of the same pieces: their sum is
at most 1.
"""

from ml_collections import ConfigDict


def get_augmentation() -> ConfigDict:
  """Returns the default: nothing is changed."""
  augmentation = ConfigDict()
  # Pack the documents into rows anew in each epoch, long ones cut elsewhere.
  augmentation.repack = False

  # Tokens that leave the row.
  augmentation.token_dropout = ConfigDict()
  augmentation.token_dropout.rate = 0.0

  # Documents that begin with the name of their source; and the share of the
  # steps, at the end of the run, in which none does.
  augmentation.metadata_prefix = ConfigDict()
  augmentation.metadata_prefix.rate = 0.0
  augmentation.metadata_prefix.cooldown = 0.1

  # Pieces whose middle moves to their end; and the share of them that has the
  # suffix before the prefix (SPM), not after it (PSM).
  augmentation.fill_in_the_middle = ConfigDict()
  augmentation.fill_in_the_middle.rate = 0.0
  augmentation.fill_in_the_middle.spm = 0.5

  # Pieces for each denoiser of UL2: R, short and few spans; X, long or many
  # spans; S, prefix language modelling. And spans of a piece at most, each of
  # which needs a token.
  augmentation.ul2 = ConfigDict()
  augmentation.ul2.r_rate = 0.0
  augmentation.ul2.x_rate = 0.0
  augmentation.ul2.s_rate = 0.0
  augmentation.ul2.sentinels = 100

  # Rows whose targets lie 2 to `longest` tokens ahead.
  augmentation.target_offset = ConfigDict()
  augmentation.target_offset.rate = 0.0
  augmentation.target_offset.longest = 5

  # Pieces that run backwards.
  augmentation.right_to_left = ConfigDict()
  augmentation.right_to_left.rate = 0.0

  # Inputs that become random tokens.
  augmentation.token_replacement = ConfigDict()
  augmentation.token_replacement.rate = 0.0

  # Inputs that become <|mask|>.
  augmentation.input_masking = ConfigDict()
  augmentation.input_masking.rate = 0.0
  return augmentation

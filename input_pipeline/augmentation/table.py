"""All augmentations, in the order in which they apply.

First what moves tokens, then what takes pieces from one another, then what
changes inputs only.
"""

from input_pipeline.augmentation.base import Augmentation
from input_pipeline.augmentation.direction import RightToLeft, TargetOffset
from input_pipeline.augmentation.fill_in_the_middle import FillInTheMiddle
from input_pipeline.augmentation.metadata_prefix import MetadataPrefix
from input_pipeline.augmentation.token_noise import (
  InputMasking,
  TokenDropout,
  TokenReplacement,
)
from input_pipeline.augmentation.ul2 import UL2

# By the name of their section in configs/augmentation.py.
AUGMENTATIONS: dict[str, type[Augmentation]] = {
  'token_dropout': TokenDropout,
  'metadata_prefix': MetadataPrefix,
  'fill_in_the_middle': FillInTheMiddle,
  'ul2': UL2,
  'target_offset': TargetOffset,
  'right_to_left': RightToLeft,
  'token_replacement': TokenReplacement,
  'input_masking': InputMasking,
}

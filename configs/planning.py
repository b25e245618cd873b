"""The fields of `planning`, a part of base.py: what `plan` cannot know."""

from ml_collections import ConfigDict, config_dict


def get_planning() -> ConfigDict:
  """Returns the default."""
  planning = ConfigDict()
  # Of the layouts that --search finds, the likeliest this many are compiled.
  planning.searched = 3
  # Price of a chip for an hour, in a currency of your choice; None: not known.
  # Those below are list prices on demand in the United States (Cloud TPU and
  # GPU price pages, 2025); yours will differ.
  planning.prices = ConfigDict()
  planning.prices.v4 = 3.22
  planning.prices.v5e = 1.2
  planning.prices.v5p = 4.2
  planning.prices.v6e = 2.7
  planning.prices.tpu7x = config_dict.placeholder(float)
  planning.prices.a100 = config_dict.placeholder(float)
  planning.prices.h100 = config_dict.placeholder(float)
  planning.prices.h200 = config_dict.placeholder(float)
  planning.prices.b200 = config_dict.placeholder(float)
  return planning

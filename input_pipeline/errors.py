"""What is wrong with data, in contrast to a wrong option."""


class DataError(ValueError):
  """Data is damaged, or not what it says it is; the message names the file."""

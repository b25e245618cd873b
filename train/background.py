"""Something that is looked at from time to time, beside the main thread."""

import contextlib
import threading
from collections.abc import Callable, Iterator

# Of several threads that end the process, the first one says why and with what
# status: it takes this and never gives it back.
ENDING = threading.Lock()


@contextlib.contextmanager
def looked_at(
  look: Callable[[], bool], seconds: float, name: str
) -> Iterator[None]:
  """Calls a function now and then, in the block.

  Args:
    look: returns whether to call it again.
    seconds: between two calls.
    name: of the thread.
  """
  ended = threading.Event()

  def repeat() -> None:
    while not ended.wait(seconds) and look():
      pass

  thread = threading.Thread(target=repeat, name=name, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()

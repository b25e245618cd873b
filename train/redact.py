"""Takes secrets out of what a run writes about itself.

What looks like a secret by its name goes, and so do names and passwords in
URLs. Secrets that stand elsewhere are not recognised: give them in the
environment, of which nothing is written.
"""

import re
from typing import Any

REDACTED = '[redacted]'

# The last word of a name: 'api_key' and 'hf-token', not 'tokenizer'.
_BEFORE = r'-*(?:[\w.-]*[_.-])?'
_COUNTED = rf'{_BEFORE}(?:token|(?:api)?key)'
_SECRET = (
  rf'{_BEFORE}(?:secret|passwd|password|passphrase|credentials?|signature)'
)
_NAME = rf'(?:{_COUNTED}|{_SECRET})'
_VALUE = r'"[^"]*"|\'[^\']*\'|[^\s,;&"\')}\]]+'

_IN_URL = re.compile(r'(?<=://)[^\s/@\'"]*@')
_WHOLE = re.compile(rf'(?P<name>{_NAME})=(?P<value>.+)', re.IGNORECASE)
_ASSIGNED = re.compile(
  rf'(?<![\w.-])(?P<name>{_NAME})(?P<sign>["\']?\s*[=:]\s*)'
  rf'(?!{re.escape(REDACTED)})(?P<value>{_VALUE})',
  re.IGNORECASE,
)
_NAMED = re.compile(_NAME, re.IGNORECASE)
_OF_COUNT = re.compile(_COUNTED, re.IGNORECASE)
_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?')


def redact_text(text: str) -> str:
  """A text with NAME=VALUE and NAME: VALUE and URLs less their secrets."""
  whole = _WHOLE.fullmatch(text)
  if whole and not _is_count(whole['name'], whole['value']):
    return f'{whole["name"]}={REDACTED}'

  def assigned(match: re.Match[str]) -> str:
    if _is_count(match['name'], match['value']):
      return match[0]
    return f'{match["name"]}{match["sign"]}{REDACTED}'

  return _ASSIGNED.sub(assigned, _IN_URL.sub(f'{REDACTED}@', text))


def redact_arguments(arguments: list[str]) -> list[str]:
  """A command line; the secret may also follow its flag as the next word."""
  found = [redact_text(argument) for argument in arguments]
  for place, argument in enumerate(arguments[:-1]):
    following = arguments[place + 1]
    if (
      argument.startswith('-')
      and _NAMED.fullmatch(argument)
      and not _is_count(argument, following)
    ):
      found[place + 1] = REDACTED
  return found


def redact(value: Any, name: str = '') -> Any:
  """What JSON holds, such as a configuration, less the secrets in it."""
  if isinstance(value, dict):
    return {key: redact(held, key) for key, held in value.items()}
  if isinstance(value, list):
    return [redact(held, name) for held in value]
  if not isinstance(value, str):
    return value
  if value and _NAMED.fullmatch(name) and not _is_count(name, value):
    return REDACTED
  return redact_text(value)


def _is_count(name: str, value: str) -> bool:
  """Whether it is a number of tokens or keys, which is no secret."""
  return bool(_OF_COUNT.fullmatch(name) and _NUMBER.fullmatch(value))
